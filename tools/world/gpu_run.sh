#!/usr/bin/env bash
# One part of the making of the bundled model for the full world, on a machine with one GPU or two:
#   gpu_run.sh PART RESULTS_DIR
#
#   evaluator-vae    the VAE; beside it, on a second GPU, the evaluator and then the teacher on what the VAE can so far
#   teacher-student  the teacher on the finished VAE, then the student; two GPUs train together
#   student          more of the student
#
# Seconds of a stage: EVALUATOR=150 VAE=530 TEACHER=368 STUDENT=558, everything of it included. PLANNED: training seconds
# of the stage that goes on in the next part. A stage that is far over its time is ended, so that the next one runs.
# Everything stays in out/full, and a later part goes on from it; where it is empty, from the model that is shipped.
# What is small and worth keeping is copied to RESULTS_DIR. Packages the machine lacks may lie as wheels in out/wheels.
set -uo pipefail
part=$1 results=$2
cd "$(dirname "$0")/../.."
if compgen -G "out/wheels/*.whl" >/dev/null && [ ! -d /tmp/site ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site out/wheels/*.whl
fi
export PYTHONPATH="/tmp/site:src:." PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4
export TORCHINDUCTOR_CACHE_DIR="$PWD/out/inductor" TORCHINDUCTOR_FX_GRAPH_CACHE=1 TRITON_CACHE_DIR="$PWD/out/triton"
out=out/full
mkdir -p $out "$results"
cards=$(nvidia-smi --list-gpus | wc -l)
last=$((cards - 1))
echo "$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) x $cards"

words() { # made while the machine begins, or is busy with pictures
  python3 -c "
from pathlib import Path
import torch
from tools.world.config import FULL
from tools.world.scene import FULL_WORLD
from tools.world.takes import Words
Words.kept(Path('$out'), FULL_WORLD, phrasings=FULL.teacher.phrasings, text_len=FULL.shape.text_len, seed=FULL.seed,
           device=torch.device('cpu'))"
}

words &
made=$!
[ -e $out/vae.pt ] || python3 -m tools.world.make --stage begin --out $out --preset full --model src/genlock/bundled

# Output goes to a file, not through a pipe: a compiler's helper that outlives its stage would keep a pipe open.
stage() { # STAGE SECONDS [MORE...]
  local name=$1 seconds=$2 ended
  shift 2
  timeout --kill-after=5 $((seconds + 40)) python3 -m tools.world.make --stage "$name" --out $out --seconds "$seconds" \
    --preset full --world full --export-dir "$results" "$@" >>"$results/$name.txt" 2>&1
  ended=$?
  echo "== $name ended with $ended after $SECONDS s"
  grep -E 'event|Error' "$results/$name.txt" | cut -c1-240 | tail -12
  return $ended
}

case $part in
evaluator-vae)
  if [ "$cards" -gt 1 ]; then
    (
      CUDA_VISIBLE_DEVICES=$last stage evaluator "${EVALUATOR:-150}"
      CUDA_VISIBLE_DEVICES=$last stage teacher "${TEACHER:-368}" --planned "${PLANNED:-0}"
    ) &
    CUDA_VISIBLE_DEVICES=0 stage vae "${VAE:-530}" || kill $!
  else
    stage evaluator "${EVALUATOR:-150}"
    stage vae "${VAE:-380}"
  fi
  wait
  ;;
teacher-student)
  wait $made
  stage teacher "${TEACHER:-170}" --cards "$cards"
  stage student "${STUDENT:-340}" --cards "$cards" --planned "${PLANNED:-700}"
  ;;
student)
  wait $made
  stage student "${STUDENT:-558}" --cards "$cards" --planned "${PLANNED:-0}"
  ;;
*)
  echo "unknown part $part" >&2
  exit 2
  ;;
esac
rm -f "$results/teacher-fine.png"
