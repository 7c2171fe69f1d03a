#!/usr/bin/env bash
# All that is to be learned on the first GPU one gets, in order of value: recipes/gpu/first_hour.sh OUT [STORE] [--tiny]
# OUT gets a log and a JSON file of each step, and results.md and results.json, small enough to carry away. STORE is a
# store of codes (ostinato prepare MUSIC STORE --codec pocket) to train on for the time that is left; without it that
# step is left out. --tiny: the same lines at sizes that a CPU can do, for a rehearsal.
# Every step has its own limit of seconds, and a step that fails stops no other. It may be stopped: the same command goes
# on, and repeats only steps that did not finish; training goes on where it was. HOUR (3600) is the time for everything.
set -uo pipefail
cd "$(dirname "$0")/../.."
tiny='' names=()
for word in "$@"; do [ "$word" = --tiny ] && tiny=yes || names+=("$word"); done
out=${names[0]:?recipes/gpu/first_hour.sh OUT [STORE] [--tiny]} store=${names[1]-}
began=$SECONDS hour=${HOUR:-3600}
mkdir -p "$out"

# step NAME LIMIT COMMAND...: its output goes to OUT/NAME.log, how it ended and how long it took to OUT/NAME.end
step() {
  local name=$1 limit=$2 from=$SECONDS code
  shift 2
  [ "$(cut -d' ' -f1 "$out/$name.end" 2>/dev/null)" = 0 ] && return
  local left=$((hour - (SECONDS - began)))
  [ $left -le 0 ] && return
  [ "$limit" -gt $left ] && limit=$left
  echo "$name, at most $limit s" >&2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  echo "$code $((SECONDS - from))" >"$out/$name.end"
  python recipes/gpu/report.py "$out"
}

if [ -n "$tiny" ]; then
  ssd=(--frames 40 --batch 1 --heads 2 --state 8 --head-width 8 --check 40 --rounds 1 --dtype float32 --ways eager)
  train=(--size small --batch 1 --seconds 1 --rounds 1 --models prefix-simba)
  plan=(configs/lm-pocket.yaml) batches=(--size small --batches 1,2 --seconds 0.1 --models prefix-simba)
  # the tests' own store, of two clips and a codec of 3 codebooks
  pocket=(--set train.steps=1 --set train.batch=1 --set model.blocks=1 --set model.width=64 --set "prompts=[]"
    --set model.num_codebooks=3 --set model.codebook_size=32 --set clip_seconds=2)
  first=prefix-simba
else
  ssd=() train=() plan=(configs/prefix-simba.yaml) batches=() pocket=(--set train.steps=100000) first=
fi

step machine 60 python recipes/gpu/card.py
step tests 600 pytest -m cuda -q $(grep -rl mark.cuda tests --include="*.py")
step ssd 420 python benchmarks/ssd.py "${ssd[@]}" --json "$out/ssd.json"
step plan 120 python -m ostinato.cli train "${plan[@]}" ${store:+--data "$store"} --plan
for model in ${first:-prefix-simba cross-transformer prefix-mamba cross-simba}; do
  step "train-$model" 240 python benchmarks/train.py "${train[@]}" --models "$model" --json "$out/train-$model.json"
done
step batches 600 python benchmarks/batches.py "${batches[@]}" --json "$out/batches.json"
if [ -n "$store" ]; then
  step pocket "$hour" python -m ostinato.cli train configs/lm-pocket.yaml --data "$store" --output "$out/pocket" "${pocket[@]}"
fi
python recipes/gpu/report.py "$out"
cat "$out/results.md"
