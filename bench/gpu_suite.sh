#!/usr/bin/env bash
# Checks and measurements that need a GPU, in parts of at most ten minutes each:
#
#   bench/gpu_suite.sh first       the most valuable facts, in eight minutes; needs no network and no xformers
#   bench/gpu_suite.sh parity      every kernel test on the GPU: bf16, fp16, fp32; a thousand runs bitwise equal
#   bench/gpu_suite.sh sanitizer   compute-sanitizer's memcheck, racecheck, initcheck and synccheck on small cases
#   bench/gpu_suite.sh kernels     the operations against what they replace
#   bench/gpu_suite.sh prove       which implementation `auto` takes here, for each operation and kind of call
#   bench/gpu_suite.sh step        the waterfall of a training step, at full size
#   bench/gpu_suite.sh endurance   eight minutes of steps: speed and memory must stay flat
#   bench/gpu_suite.sh encoders    SAM's attention: segment-anything's and ours
#   bench/gpu_suite.sh cache       writing a cache and reading it: images/s against segment-anything, GB/s to the GPU
#
# WHEELS is a folder of wheels, for a machine without a network (gpu_requirements.txt says how to gather them); OUT
# a folder for logs and results, bench/results by default. PYTHON is the interpreter with PyTorch, python3 by default.
# COMMIT is the measured commit, for `first` on a copy of the files without a repository.
set -euo pipefail

part=${1:-}
case $part in
first | parity | sanitizer | kernels | prove | step | endurance | encoders | cache) ;;
*)
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit 2
    ;;
esac

cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-bench/results}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if [[ -n ${WHEELS:-} ]]; then
    site=${TMPDIR:-/tmp}/maris-fast-wheels
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$PYTHONPATH:$site"
fi

"$PYTHON" - <<'PY'
import sys

import torch

if not torch.cuda.is_available():
    sys.exit("no CUDA device, and these checks need one; `make test` proves the kernels in Triton's interpreter")
print(torch.cuda.get_device_name(), "torch", torch.__version__)
PY

# A command that fails doesn't stop the others of its part; the part then ends with the last status of failure.
failed=0
logged() { "$@" 2>&1 | tee -a "$OUT/$part.log" || failed=$?; }
maris() { "$PYTHON" -m maris_fast.cli "$@"; }
tests() { "$PYTHON" -m pytest -q -p no:cacheprovider "$@"; }

case $part in
first)
    logged "$PYTHON" -m maris_fast.bench.first_on_gpu --out "$OUT" ${COMMIT:+--commit "$COMMIT"}
    ;;
parity)
    # Neither what needs no GPU nor mutants, of which each is compiled anew.
    logged tests tests/kernels --timeout=540 --junitxml="$OUT/parity.xml" -m 'not mutant' \
        --ignore-glob='tests/kernels/test_*_compiles.py'
    logged tests tests/training tests/data -m gpu --timeout=540
    ;;
sanitizer)
    command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on the PATH" >&2; exit 1; }
    # The caching allocator would hide an access beyond the end of a tensor.
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    for tool in memcheck racecheck initcheck synccheck; do
        logged compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-regex kns=_attention_ \
            "$PYTHON" -m pytest -q -p no:cacheprovider tests/kernels/test_{mutual,cross}_attention_triton.py \
            -k "test_parity and (L_v:37 or L_v:70 or L_q:37 or L_q:70)"
    done
    ;;
kernels)
    logged maris bench run mutual_attention cross_attention multihead_attention --out "$OUT"
    ;;
prove)
    MARIS_FAST_CERTIFICATES=$OUT/certificates logged maris kernels prove
    ;;
step)
    logged maris bench step --size full --out "$OUT"
    ;;
endurance)
    logged maris bench step --size full --endurance-minutes 8 --out "$OUT"
    ;;
encoders)
    logged maris bench run sam_attention --out "$OUT"
    ;;
cache)
    logged "$PYTHON" -m maris_fast.bench.writing --out "$OUT"
    logged "$PYTHON" -m maris_fast.bench.reading --out "$OUT"
    ;;
esac
exit "$failed"
