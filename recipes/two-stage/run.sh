#!/usr/bin/env bash
# One of RQ2's systems, whole: recipes/two-stage/run.sh SYSTEM STORE [SIZE [--set KEY=VALUE ...]]
# SYSTEM: delay (one stage, all codebooks), simba or transformer (a language model for the first codebook, diffusion for
# the others). STORE: of codes, as `ostinato prepare` writes it. SIZE: pocket (default) or paper, DAC on a GPU.
# The fine stage is trained once, for both. It may be stopped: the same command goes on, and skips runs that are
# finished, whatever their settings were: name another OUT for others.
# OUT (runs/two-stage-SIZE) and FINE (simba or unet, at pocket size; the paper's is unet) may be set in the environment.
# SETTINGS after SIZE go to every training: those that both stages have, such as train.precision.
set -euo pipefail
here=$(dirname "$0") configs=$(dirname "$0")/../../configs
[ $# -ge 2 ] || { echo "recipes/two-stage/run.sh SYSTEM STORE [SIZE [--set KEY=VALUE ...]]" >&2; exit 2; }
system=$1 store=$2 size=${3:-pocket}
[[ $size != --* ]] || { echo "give SIZE, pocket or paper, before $size" >&2; exit 2; }
shift $(($# < 3 ? $# : 3))
out=${OUT:-runs/two-stage-$size} denoiser=${FINE:-simba}
[ "$size" = paper ] && denoiser=unet

[ "$size" = paper ] && fine=$configs/fine-unet.yaml || fine=$configs/fine-pocket-$denoiser.yaml
[ -e "$fine" ] || { echo "FINE=$denoiser: give simba or unet" >&2; exit 2; }

train() { # CONFIG RUN [settings]
  local config=$1 run=$2
  shift 2
  [ -e "$run/finished" ] && return
  echo "$run" >&2
  ostinato train "$config" --data "$store" --output "$run" "$@"
  touch "$run/finished"
}

case $system-$size in
  delay-pocket) lm=$configs/lm-pocket.yaml ;;
  delay-paper) lm=$configs/prefix-simba-9.yaml ;;
  simba-pocket) lm=$configs/lm-coarse-pocket.yaml ;;
  simba-paper) lm=$configs/prefix-simba.yaml ;;
  transformer-pocket) lm=$here/transformer-pocket.yaml ;;
  transformer-paper) lm=$configs/cross-transformer.yaml ;;
  *) echo "$system, $size: give delay, simba or transformer, and pocket or paper" >&2; exit 2 ;;
esac
train "$lm" "$out/$system" --set "prompts=[]" "$@"
if [ "$system" = delay ]; then
  echo "$out/delay"
else
  train "$fine" "$out/fine-$denoiser" "$@"
  ostinato join "$out/$system" "$out/fine-$denoiser" "$out/$system-$denoiser"
fi
