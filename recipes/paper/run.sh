#!/usr/bin/env bash
# The whole paper (arXiv 2601.14786), from a collection to Tables I, II and IV:
#   recipes/paper/run.sh mtg-jamendo:FOLDER [--plan]     DAC, Flan-T5, the paper's sizes, one GPU for weeks
#   recipes/paper/run.sh --tiny                          the same steps in minutes on a CPU, on music made here
# --plan prints what each training costs on the card at hand (GPU="RTX 4090" for another), and does nothing.
# Each step goes on where it was stopped; a finished one is skipped. Settings of the environment:
#   OUT (runs/paper)     the folder for everything
#   RECIPE (configs/data-paper.yaml)   of the data; SET="merge.model=X merge.url=Y" over it
#   REFERENCE            a folder with the recordings of MusicCaps, named by ytid, which FD and KL want
#   PROMPTS (musiccaps), LISTENERS (openl3 passt clap)
# The numbers of --tiny mean nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
music=$1 plan= tiny=
for word in "$@"; do
  [ "$word" = --plan ] && plan=1
  [ "$word" = --tiny ] && tiny=1
done
out=${OUT:-runs/paper${tiny:+-tiny}}
. "$here/steps.sh"
recipe=${RECIPE:-$configs/data-paper.yaml} prompts=${PROMPTS:-musiccaps} listeners=(${LISTENERS:-openl3 passt clap})
counts=(200 50) lengths=(10 25) pools=(12 3) blocks_12=() blocks_6=() short=(train.steps=20000)
variants=(prefix-mamba prefix-simba cross-simba cross-transformer)
if [ -n "$tiny" ]; then
  python "$here/tiny.py" "$out"
  music=$out/music recipe=$configs/data-free.yaml prompts=$out/prompts.csv REFERENCE=$out/reference
  listeners=(${LISTENERS:-efficientat:$out/listener.pt})
  counts=(2 2) lengths=(1 2) pools=(2 1) blocks_12=(model.blocks=2) blocks_6=(model.blocks=1) short=(train.steps=2)
fi

evaluate() { # NAME LENGTH COUNT TARGET...
  local name=$1 length=$2 count=$3 listen=()
  shift 3
  for one in "${listeners[@]}"; do listen+=(--listener "$one"); done
  ostinato evaluate "$@" --prompts "$prompts" --count "$count" --seconds "$length" "${listen[@]}" \
    ${REFERENCE:+--reference "$REFERENCE"} ${tiny:+--replicates 4 --batch 2 --metrics fd,kl} \
    --codec "$codec" --codebooks 1 --output "$out/$name"
}

if [ -z "$plan" ]; then
  once curate curate "$recipe"
  once prepare prepare
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
# The marks of Tables III and IV are of people: ostinato listen serve TEST, then ostinato listen results TEST, then this again.
once listen3 ostinato listen prepare "$out/tables/2-${lengths[1]}" --pool "${pools[0]}" --prompts "${pools[1]}" --output "$out/listen-3"
once listen4 ostinato listen prepare "$out/tables/4" --pool "${pools[0]}" --prompts "${pools[1]}" --output "$out/listen-4"
listened=()
for test in "$out"/listen-[34]; do
  if [ -e "$test/results/listening.json" ]; then listened+=(--listening "$test"); fi
done
ostinato report "$out/tables/1" "$out/tables/2-${lengths[0]}" "$out/tables/2-${lengths[1]}" "$out/tables/4" \
  --run "$out/simba" --run "$out/transformer" "${listened[@]}" --output "$out/report"
