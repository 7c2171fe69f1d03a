#!/usr/bin/env bash
# The academic text-to-music challenge (ICME 2026, arXiv 2605.21538), from MTG-Jamendo to a submission folder:
#   recipes/attm/run.sh mtg-jamendo:FOLDER PROMPTS.csv [--plan]     a GPU for days
#   recipes/attm/run.sh --tiny                                      the same steps on a CPU, on music made here
# PROMPTS.csv: the organisers' sentences, columns name and caption. Each step goes on where it was stopped; a finished one
# is skipped. Settings of the environment:
#   OUT (runs/attm)      the folder for everything; models and submission are in OUT/TRACK
#   SET                  over configs/data-attm.yaml: "separate=off" where FOLDER's music has lost its voices
#   TRACK (efficiency)   at most 500 M parameters generate: Prefix SiMBA over all nine codebooks, 298 M;
#                        performance: Prefix SiMBA and the fine stage, 1.5 B
#   SEED (0)             of the generations
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
music=$1 prompts=${2:-} plan= tiny= track=${TRACK:-efficiency}
for word in "$@"; do
  [ "$word" = --plan ] && plan=1
  [ "$word" = --tiny ] && tiny=1
done
case $track in efficiency | performance) ;; *) echo "no track $track: efficiency or performance" >&2; exit 2 ;; esac
out=${OUT:-runs/attm${tiny:+-tiny}}
. "$here/../paper/steps.sh"
recipe=$configs/data-attm.yaml
if [ -n "$tiny" ]; then
  python "$here/collection.py" "$out" "$configs/data-attm.yaml"
  music=mtg-jamendo:$out/jamendo prompts=$out/prompts.csv recipe=$out/data-attm.yaml
fi

if [ -z "$plan" ]; then
  [ -e "$prompts" ] || { echo "no prompts ${prompts:-given}: a CSV with the columns name and caption" >&2; exit 2; }
  once curate curate "$recipe"
  once prepare prepare
fi
# Data and store serve both tracks, models one each.
if [ "$track" = efficiency ]; then
  train prefix-simba-9 "$track/lm" "${small[@]}" "${lm_small[@]}" "${nine_small[@]}"
  model=$out/$track/lm runs=(--run "$out/$track/lm")
else
  train prefix-simba "$track/lm" "${small[@]}" "${lm_small[@]}"
  train fine-unet "$track/fine" "${small[@]}" "${fine_small[@]}"
  model=$out/$track/joint runs=(--run "$out/$track/lm" --run "$out/$track/fine")
fi
[ -n "$plan" ] && exit
[ "$track" = efficiency ] || once "$track/join" ostinato join "$out/$track/lm" "$out/$track/fine" "$model"
python "$here/submission.py" "$model" "$prompts" "$out/data" "$out/$track/submission" "${runs[@]}" \
  --track "$track" --seed "${SEED:-0}" \
  $([[ $tiny || " ${SET:-} " == *" separate=off "* ]] && echo --separated) ${tiny:+--rehearsal}
