# What recipes/paper/run.sh and recipes/attm/run.sh have in common; they source it with `here`, `music`, `plan`, `tiny`, `out`
# set. Each step goes on where it was stopped; a finished one is skipped.
configs=$(cd "$here/../../configs" && pwd)
codec=dac seconds=30 store=$out/store
small=() lm_small=() fine_small=() nine_small=() curated=()
if [ -n "$tiny" ]; then
  # Tiny sizes are settings over the paper's own configs: nothing of them is another model.
  codec=pocket seconds=4 curated=(read.min_seconds=1 cut.seconds=4 cut.min_seconds=4)
  small=(text=minilm clip_seconds=4 model.text_width=384 train.steps=4 train.batch=2 train.accumulation=1 train.workers=0
    train.validation_clips=2 train.checkpoint_every=4 train.validate_every=4 train.tracker=none train.warmup=1
    train.checkpointing=false)
  lm_small=(model.width=64 model.blocks=4 model.heads=2 model.feed_forward=64 model.state=16 model.head_width=32 "prompts=[]")
  nine_small=(model.num_codebooks=12)
  fine_small=(model.num_codebooks=12 model.width=16 model.heads=2 "model.multiples=[1,2]" model.blocks=1 train.ema=0
    sampling.steps=2 sampling.window=4 sampling.overlap=1 sample_seconds=2 sample_clips=1)
fi
mkdir -p "$out"

once() { # NAME COMMAND...: run it, unless it has run to its end
  local mark=$out/done/${1//\//-}
  [ -e "$mark" ] && return
  echo "== $1" >&2
  "${@:2}"
  mkdir -p "$out/done" && touch "$mark"
}
curate() { # RECIPE: $music becomes $out/data, with a report of what is out and why
  local set=()
  for setting in "${curated[@]}" ${SET:-}; do set+=(--set "$setting"); done
  ostinato curate "$music" "$out/data" --recipe "$1" "${set[@]}" ${tiny:+--local --workers 0}
  ostinato curate --report "$out/data" --output "$out/data-report"
}
prepare() {
  ostinato prepare "$out/data" "$store" --codec "$codec" --clip-seconds "$seconds"
}
train() { # CONFIG RUN SETTING...: with --plan, only what it would cost
  local config=$1 run=$2 set=()
  shift 2
  for setting in "$@"; do set+=(--set "$setting"); done
  if [ -n "$plan" ]; then
    echo "== $run" && ostinato train "$configs/$config.yaml" --data "$store" --output "$out/$run" "${set[@]}" --plan ${GPU:+--gpu "$GPU"}
  else
    once "$run" ostinato train "$configs/$config.yaml" --data "$store" --output "$out/$run" "${set[@]}"
  fi
}
