#!/usr/bin/env bash
# From nothing to the model that ships with Ostinato, on Debian 12. Interrupt it at will: run it again and it goes on.
#   recipes/pocket/run.sh        on two CPU cores, a day: a codec of 13 M parameters, two stages of 6 and 12 M
#   recipes/pocket/run.sh gpu    the same data, longer, and a first stage of 28 M; not run yet for want of one
# LOG.md has the hours and curves of what shipped. Its codec learned 8 codebooks first and then 12, as here. Its two stages
# were trained on the codec of 8 and then on that of 12; here they begin with 12. Its decoder's last leg was 1,100 steps
# at 3e-4 against the discriminator of an earlier run; here it is 2,850 at 4e-4 against a new one.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-cpu}" = gpu ]; then
    codec=(--set train.steps=200000 --set train.batch=32 --set train.workers=8)
    more=(--set train.steps=100000 --set train.batch=32 --set train.workers=8)
    decoder=(--set train.steps=100000 --set train.batch=32 --set train.workers=8)
    lm=(configs/lm-pocket-40m.yaml --output runs/lm-coarse-pocket --set model.num_codebooks=1 --set model.pattern=single)
    fine=(--set train.steps=20000 --set train.batch=32 --set train.workers=8)
else
    # bfloat16 is three times as fast where the processor has it, and sixteen times as slow where it has not.
    precision=fp32
    if grep -qE "avx512_bf16|amx_bf16" /proc/cpuinfo; then precision=bf16; fi
    codec=(--set train.steps=6800 --set train.precision=$precision)
    more=(--set train.precision=$precision) decoder=(--set train.precision=$precision)
    lm=(configs/lm-coarse-pocket.yaml --set train.precision=$precision --set train.compile=true)
    fine=(--set train.precision=$precision --set train.compile=true)
    export GOMP_SPINCOUNT=0 OMP_WAIT_POLICY=passive  # threads that wait do not keep other work off the cores
    # Freed memory is kept for the next step: with 180,000 page faults fewer, one took 1.55 s in place of 2.6 to 3.3.
    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
fi
python recipes/pocket/1_corpus.py data/pocket
ostinato prepare data/pocket stores/audio --codec none --sample-rate 32000
ostinato train configs/codec-pocket.yaml "${codec[@]}" --set adversary_from=1000000
python recipes/pocket/2_grow.py runs/codec-pocket runs/codec-12-start 12 --lookahead 1
ostinato train configs/codec-pocket-12.yaml --init runs/codec-12-start "${more[@]}"
python recipes/pocket/3_half.py runs/codec-pocket-12 runs/codec-half
ostinato prepare data/pocket stores/pocket --codec runs/codec-half
ostinato train configs/codec-pocket-decoder.yaml --init runs/codec-half "${decoder[@]}"
ostinato train "${lm[@]}"
ostinato train configs/fine-pocket-simba.yaml "${fine[@]}"
ostinato join runs/lm-coarse-pocket runs/fine-pocket-simba runs/two-stage
python recipes/pocket/3_half.py runs/two-stage runs/pack runs/codec-pocket-decoder
cp -r runs/pack/{config.json,lm,fine,codec} src/ostinato/packs/pocket
python recipes/pocket/4_attribution.py data/pocket/captions.jsonl src/ostinato/packs/pocket/ATTRIBUTION.csv
