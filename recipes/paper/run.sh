#!/usr/bin/env bash
# The paper's four language models on DAC codes, on one GPU: recipes/paper/run.sh MUSIC
# MUSIC is a folder of instrumental tracks with captions (the paper: 457 h of MTG-Jamendo, vocals removed). Weights of DAC and
# Flan-T5 come from the hub. Not yet run from end to end: no GPU and no hub were at hand when it was written.
set -euo pipefail
cd "$(dirname "$0")/../.."
ostinato prepare "$1" stores/dac --codec dac
for variant in prefix-simba prefix-mamba cross-simba cross-transformer prefix-simba-9; do
  ostinato train "configs/$variant.yaml"
done
