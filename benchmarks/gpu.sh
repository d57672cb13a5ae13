#!/usr/bin/env bash
# Install the package beside the torch of this machine, test it on the GPU and measure: docs/gpu.md.
#
#     benchmarks/gpu.sh [--out=DIR] [--wheels=DIR] [--python=PYTHON] [options of benchmarks.gpu]
#
# --wheels installs the wheels of a folder and uses no package registry.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="gpu-report" wheels="" python="python3" words=()
for word in "$@"; do
    case "$word" in
        --out=*) out="${word#*=}" ;;
        --wheels=*) wheels="$(realpath "${word#*=}")" ;;
        --python=*) python="${word#*=}" ;;
        --data_path=*) words+=("--data_path=$(realpath "${word#*=}")") ;;
        *) words+=("$word") ;;
    esac
done
mkdir -p "$out"
out="$(realpath "$out")"
export PIP_DISABLE_PIP_VERSION_CHECK=1

"$python" -c 'import torch' 2>/dev/null || {
    echo "$python has no torch; install torch for this card first, or name another interpreter with --python" >&2
    exit 2
}
if [[ ! -x "$out/venv/bin/python" ]]; then
    "$python" -m venv --system-site-packages "$out/venv"
    # A virtual environment does not see the packages of the virtual environment that it was made from.
    "$python" -c 'import site; print(*site.getsitepackages(), sep="\n")' >"$out/site"
    "$out/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])' >"$out/own"
    cp "$out/site" "$(cat "$out/own")/outer.pth"
fi
install=("$out/venv/bin/python" -m pip install --quiet)
if [[ -n "$wheels" ]]; then
    "${install[@]}" --no-index --no-deps "$wheels"/*.whl >"$out/install.log" 2>&1 || {
        echo "pip cannot install $wheels: $(tail -n 1 "$out/install.log")" >&2
        exit 2
    }
elif ! "${install[@]}" "$root" pytest >"$out/install.log" 2>&1; then
    echo "pip cannot install from the package registry ($(tail -n 1 "$out/install.log")); use --wheels=DIR" >&2
fi
cd "$root"
exec "$out/venv/bin/python" -m benchmarks.gpu --out="$out" "${words[@]}"
