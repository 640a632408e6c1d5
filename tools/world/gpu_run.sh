#!/usr/bin/env bash
# One part of the making of the bundled model, on a machine with one GPU or two: gpu_run.sh PART RESULTS_DIR
#   evaluator-vae   the evaluator and the VAE side by side (two GPUs), then the teacher on what the VAE can so far
#   teacher-student the teacher to its end, then the student
#   student         more of the student
# Seconds of each stage can be set: EVALUATOR=170 VAE=430 TEACHER=... STUDENT=...
# Everything stays in out/full, so that a later part goes on from it; what is small and worth keeping is copied to
# RESULTS_DIR. Packages the machine lacks may lie as wheels in out/wheels.
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

stage() { # STAGE SECONDS [MORE...]
  local name=$1 seconds=$2
  shift 2
  python3 -m tools.world.make --stage "$name" --out $out --seconds "$seconds" --preset full --world full "$@" 2>&1 |
    grep --line-buffered -v -i warning
}

words() { # made while the cards are busy with pictures
  python3 -c "
from pathlib import Path
import torch
from tools.world.config import FULL
from tools.world.scene import FULL_WORLD
from tools.world.takes import Words
Words.kept(Path('$out'), FULL_WORLD, phrasings=FULL.teacher.phrasings, text_len=FULL.shape.text_len, seed=FULL.seed,
           device=torch.device('cpu'))"
}

case $part in
evaluator-vae)
  words &
  if [ "$cards" -gt 1 ]; then
    (CUDA_VISIBLE_DEVICES=$last stage evaluator "${EVALUATOR:-170}" --export-dir "$results"
     CUDA_VISIBLE_DEVICES=$last stage teacher "${TEACHER:-300}" --planned "${PLANNED:-500}" --export-dir "$results"
    ) >"$results/beside.txt" 2>&1 &
    CUDA_VISIBLE_DEVICES=0 stage vae "${VAE:-430}" --export-dir "$results" || { kill 0; exit 1; }
  else
    stage evaluator "${EVALUATOR:-150}" --export-dir "$results"
    stage vae "${VAE:-360}" --export-dir "$results"
  fi
  wait
  rm -f "$results"/teacher-fine.png
  grep -v '^ ' "$results/beside.txt" | cut -c1-220 | awk 'NR % 8 == 1 || /event/'
  ;;
teacher-student)
  stage teacher "${TEACHER:-200}" --cards "$cards" --export-dir "$results"
  stage student "${STUDENT:-300}" --cards "$cards" --planned "${PLANNED:-500}" --export-dir "$results"
  ;;
student)
  stage student "${STUDENT:-500}" --cards "$cards" --export-dir "$results"
  ;;
*)
  echo "unknown part $part" >&2
  exit 2
  ;;
esac
