#!/usr/bin/env bash
# From nothing to the pack that ships with Ostinato, on Debian 12. Interrupt it at will: run it again and it goes on.
# 14 h of free music, a codec of 13 M parameters and a language model of 10 M; see LOG.md for hours and curves.
set -euo pipefail
cd "$(dirname "$0")/../.."
export GOMP_SPINCOUNT=0 OMP_WAIT_POLICY=passive  # threads that wait do not keep other work off the cores
python recipes/pocket/corpus.py data/pocket
ostinato prepare data/pocket stores/audio --codec none --sample-rate 32000
ostinato train configs/codec-pocket.yaml --set train.precision=bf16 --set train.steps=4600 --set adversary_from=100000
python recipes/pocket/half.py runs/codec-pocket runs/codec-half
ostinato prepare data/pocket stores/pocket --codec runs/codec-half
ostinato train configs/lm-pocket.yaml --set train.precision=bf16 --set train.steps=1300
python recipes/pocket/half.py runs/lm-pocket src/ostinato/pocket_pack
python recipes/pocket/attribution.py data/pocket/captions.jsonl src/ostinato/pocket_pack/ATTRIBUTION.csv
