#!/usr/bin/env bash
# One stage on a machine with a GPU: gpu_run.sh STAGE SECONDS RESULTS_DIR [EXTRA...]
#   bash tools/world/gpu_run.sh vae 500 results
#   bash tools/world/gpu_run.sh teacher 540 results
#   bash tools/world/gpu_run.sh student 380 results
# Checkpoints stay in out/first; what is small and worth keeping is copied to RESULTS_DIR.
# Packages the machine lacks may lie as wheels in .whl/.
set -euo pipefail
stage=$1 seconds=$2 results=$3
shift 3
cd "$(dirname "$0")/../.."
if compgen -G ".whl/*.whl" >/dev/null && [ ! -d /tmp/site ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site .whl/*.whl
fi
export PYTHONPATH="/tmp/site:src:." PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR="$PWD/out/inductor" TORCHINDUCTOR_FX_GRAPH_CACHE=1
mkdir -p out/first "$results"
python3 -m tools.world.make --stage "$stage" --out out/first --seconds "$seconds" --preset first \
  --export-dir "$results" "$@"
