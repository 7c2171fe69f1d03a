#!/usr/bin/env bash
# Train the four language models on one store under one budget: recipes/efficiency/run.sh STORE [CONFIGS [--set KEY=VALUE ...]]
# CONFIGS is a folder with the four configs: recipes/efficiency/small (default), or configs, the paper's size, on a GPU.
# Every run sees the same clips in the same order. It may be stopped: the same command goes on, and skips finished runs.
# SEEDS ("0 1") and OUT (runs/efficiency) may be set in the environment.
set -euo pipefail
here=$(dirname "$0")
store=$1 configs=${2:-$here/small} out=${OUT:-runs/efficiency}
shift $(($# < 2 ? $# : 2))
for seed in ${SEEDS:-0 1}; do
  for variant in cross-transformer prefix-simba prefix-mamba cross-simba; do
    run=$out/$variant-$seed
    [ -e "$run/finished" ] && continue
    echo "$run" >&2
    ostinato train "$configs/$variant.yaml" --set "data=$store" --set "output=$run" --set "train.seed=$seed" --set "prompts=[]" "$@"
    touch "$run/finished"
  done
done
python "$here/compare.py" "$out"/*-[0-9]* --output "$out/comparison.png"
