# Sourced by the other scripts: makes an environment in the repository, once.
#
# usage: source scripts/environment.sh EXTRAS [FOLDER [requirements]]
# FOLDER is .venv by default. With `requirements`, what the extra EXTRAS lists is installed without
# lftr itself and torch. Leaves the environment's python in $PYTHON.

set -euo pipefail

extras=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$root/${2:-.venv}
PYTHON=$folder/bin/python
ready=$folder/.lftr-ready-$extras

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "lftr needs python 3.11 or newer (with its venv and ensurepip modules); none was found on the PATH" >&2
    return 1
}

has_torch() { "$PYTHON" -c 'import torch' 2>/dev/null; }

# A machine without an NVIDIA driver has no use for torch's CUDA build, some gigabytes larger.
# torchvision is left out: beside a CPU build of torch, its usual build cannot be imported.
install_torch() {
    has_torch && return
    if ! command -v nvidia-smi >/dev/null 2>&1; then
        "$PYTHON" -m pip install -qq "torch==2.13.0+cpu" 2>/dev/null && return
        "$PYTHON" -m pip install -qq torch \
            --index-url https://download.pytorch.org/whl/cpu 2>/dev/null && return
        echo "no CPU build of torch within reach; taking the default one" >&2
    fi
    "$PYTHON" -m pip install -qq torch
}

# Prints the requirements that an extra lists, one a line.
requirements_of() {
    "$PYTHON" -c '
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"][sys.argv[2]], sep="\n")
' "$root/pyproject.toml" "$1"
}

install_requirements() {
    local listed
    listed=$(requirements_of "$extras")
    "$PYTHON" -m pip install -qq --requirement /dev/stdin <<<"$listed"
}

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    chosen=$(find_python)
    echo "making $folder with $("$chosen" --version)" >&2
    "$chosen" -m venv --clear "$folder"
fi
if ! cmp --silent "$root/pyproject.toml" "$ready"; then
    if [[ ${3:-} == requirements ]]; then
        echo "installing the requirements of lftr[$extras] into $folder" >&2
        install_requirements
    else
        echo "installing lftr[$extras] into $folder" >&2
        install_torch
        "$PYTHON" -m pip install -qq --editable "$root[$extras]"
    fi
    cp "$root/pyproject.toml" "$ready"
fi
