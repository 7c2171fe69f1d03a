#!/usr/bin/env bash
# The whole paper (arXiv 2601.14786), from a collection to Tables I, II and IV:
#   recipes/paper/run.sh mtg-jamendo:FOLDER [--plan]     DAC, Flan-T5, the paper's sizes, one GPU for weeks
#   recipes/paper/run.sh --tiny                          the same steps on a CPU, on music made here; tried up to Table I
# --plan prints what each training costs on the card at hand (GPU="RTX 4090" for another), and does nothing.
# Each step goes on where it was stopped; a finished one is skipped. Settings of the environment:
#   OUT (runs/paper)     the folder for everything
#   RECIPE (configs/data-paper.yaml)   of the data; SET="merge.model=X merge.url=Y" over it
#   REFERENCE            a folder with the recordings of MusicCaps, named by ytid, which FD and KL want
#   PROMPTS (musiccaps), LISTENERS (openl3 passt clap)
# Tiny sizes are settings over the same configs: nothing of them is another model. Their numbers mean nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) configs=$(cd "$(dirname "$0")/../../configs" && pwd)
[ $# -ge 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
music=$1 plan= tiny=
for word in "$@"; do
  [ "$word" = --plan ] && plan=1
  [ "$word" = --tiny ] && tiny=1
done
out=${OUT:-runs/paper${tiny:+-tiny}} recipe=${RECIPE:-$configs/data-paper.yaml} prompts=${PROMPTS:-musiccaps}
mkdir -p "$out"
listeners=(${LISTENERS:-openl3 passt clap}) codec=dac seconds=30 counts=(200 50) lengths=(10 25) store=$out/store
variants=(prefix-mamba prefix-simba cross-simba cross-transformer)
small=() lm_small=() fine_small=() nine_small=() blocks_12=() blocks_6=() short=(train.steps=20000) curated=()
if [ -n "$tiny" ]; then
  music=$out/music recipe=$configs/data-free.yaml codec=pocket seconds=4 counts=(2 2) lengths=(2 3) curated=(cut.seconds=4 cut.min_seconds=4)
  python "$here/tiny.py" "$out"
  prompts=$out/prompts.csv REFERENCE=$out/reference listeners=(${LISTENERS:-efficientat:$out/listener.pt})
  small=(text=minilm clip_seconds=4 model.text_width=384 train.steps=4 train.batch=2 train.accumulation=1 train.workers=0
    train.validation_clips=2 train.checkpoint_every=4 train.validate_every=4 train.tracker=none train.warmup=1)
  lm_small=(model.width=64 model.blocks=4 model.heads=2 model.feed_forward=64 model.state=16 model.head_width=32 "prompts=[]"
    train.checkpointing=false)
  nine_small=(model.num_codebooks=8) blocks_12=(model.blocks=2) blocks_6=(model.blocks=1) short=(train.steps=2)
  fine_small=(model.num_codebooks=8 model.width=16 model.heads=2 "model.multiples=[1,2]" model.blocks=1 train.ema=0
    sampling.steps=2 sampling.window=4 sampling.overlap=1 sample_seconds=2 sample_clips=1 train.checkpointing=false)
fi

once() { # NAME COMMAND...: run it, unless it has run to its end
  local mark=$out/done/${1//\//-}
  [ -e "$mark" ] && return
  echo "== $1" >&2
  "${@:2}"
  mkdir -p "$out/done" && touch "$mark"
}
train() { # CONFIG RUN SETTING...
  local config=$1 run=$2 set=()
  shift 2
  for setting in "$@" ; do set+=(--set "$setting"); done
  if [ -n "$plan" ]; then
    echo "== $run" && ostinato train "$configs/$config.yaml" --data "$store" --output "$out/$run" "${set[@]}" --plan ${GPU:+--gpu "$GPU"}
  else
    once "$run" ostinato train "$configs/$config.yaml" --data "$store" --output "$out/$run" "${set[@]}"
  fi
}
curate() {
  local set=()
  for setting in "${curated[@]}" ${SET:-}; do set+=(--set "$setting"); done
  ostinato curate "$music" "$out/data" --recipe "$recipe" "${set[@]}" ${tiny:+--local --workers 0}
  ostinato curate --report "$out/data" --output "$out/data-report"
}
evaluate() { # NAME LENGTH COUNT TARGET...
  local name=$1 length=$2 count=$3 listen=()
  shift 3
  for one in "${listeners[@]}"; do listen+=(--listener "$one"); done
  ostinato evaluate "$@" --prompts "$prompts" --count "$count" --seconds "$length" "${listen[@]}" \
    ${REFERENCE:+--reference "$REFERENCE"} ${tiny:+--replicates 4 --batch 2} --codec "$codec" --codebooks 1 --output "$out/$name"
}

if [ -z "$plan" ]; then
  once curate curate
  once prepare ostinato prepare "$out/data" "$store" --codec "$codec" --clip-seconds "$seconds"
fi
# Table I: four language models of one codebook, 20,000 steps.
for variant in "${variants[@]}"; do
  train "$variant" "table1/$variant" "${small[@]}" "${lm_small[@]}" "${short[@]}"
done
# Tables II and IV: 100,000 steps; the fine stage is trained once, for all.
train prefix-simba simba "${small[@]}" "${lm_small[@]}"
train cross-transformer transformer "${small[@]}" "${lm_small[@]}"
train prefix-simba-9 simba-9 "${small[@]}" "${lm_small[@]}" "${nine_small[@]}"
train prefix-simba-n12 simba-n12 "${small[@]}" "${lm_small[@]}" "${blocks_12[@]}"
train prefix-simba-n6 simba-n6 "${small[@]}" "${lm_small[@]}" "${blocks_6[@]}"
train fine-unet fine "${small[@]}" "${fine_small[@]}"
[ -n "$plan" ] && exit
for lm in simba transformer simba-n12 simba-n6; do
  once "join-$lm" ostinato join "$out/$lm" "$out/fine" "$out/joint-$lm"
done
targets=()
for variant in "${variants[@]}"; do targets+=("$variant=$out/table1/$variant"); done
once table1 evaluate tables/1 "${lengths[0]}" "${counts[0]}" "${targets[@]}"
two=("prefix-simba-9=$out/simba-9" "transformer-diffusion=$out/joint-transformer" "simba-diffusion=$out/joint-simba")
[ -n "$tiny" ] || two=(musicgen-small=facebook/musicgen-small "${two[@]}")
for i in 0 1; do once "table2-${lengths[i]}" evaluate "tables/2-${lengths[i]}" "${lengths[i]}" "${counts[i]}" "${two[@]}"; done
four=("blocks-24=$out/joint-simba" "blocks-12=$out/joint-simba-n12" "blocks-6=$out/joint-simba-n6")
once table4 evaluate tables/4 "${lengths[1]}" "${counts[1]}" "${four[@]}"
once report ostinato report "$out/tables/1" "$out/tables/2-${lengths[0]}" "$out/tables/2-${lengths[1]}" "$out/tables/4" \
  --run "$out/simba" --run "$out/transformer" --output "$out/report"
echo "$out/report"
