#!/bin/sh
# Everything that only a GPU can show, in one run of less than ten minutes; writes a JSON and a table.
#   scripts/gpu_check.sh [--out DIR]      needs the project's environment (`make test` makes it) and a CUDA GPU
#   scripts/gpu_check.sh --cpu            a small dry run without one
# With CuPy (pip install cupy-cuda12x) the paper's table is compared, too.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
[ -x "$python" ] || python=python
exec timeout 600 "$python" "$here/benchmarks/gpu_check.py" "$@"
