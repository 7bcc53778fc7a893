#!/bin/sh
# Makes .venv and installs what is named ('.' or '.[dev]') into it, editable.
# With uv the CPU build of torch is taken where there is no GPU (about 1.5 GB on disk in all); plain pip takes
# the registry's build, which on Linux brings CUDA along (about 6 GB on disk).
set -eu
target=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "fewsight needs Python 3.11 or later; $python is $("$python" --version). Set PYTHON=..." >&2
    exit 1
fi

if command -v uv >/dev/null 2>&1; then
    echo "Installing fewsight into .venv with uv: about 0.6 GB to download, 1.5 GB on disk without a GPU."
    [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
    if UV_HTTP_RETRIES=0 uv pip install --quiet --python .venv/bin/python --torch-backend auto -e "$target"; then
        exit 0
    fi
    echo "The CPU build of torch could not be had; taking the registry's build (up to 6 GB on disk)."
    exec uv pip install --quiet --python .venv/bin/python -e "$target"
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
if [ "$(uname -s)" = Linux ] && ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    echo "Installing fewsight into .venv with pip: torch for Linux brings CUDA, about 3 GB to download, 6 GB on disk."
    echo "(With uv on the PATH it takes the CPU build: a quarter of that.)"
else
    echo "Installing fewsight into .venv with pip."
fi
exec .venv/bin/python -m pip install --quiet --disable-pip-version-check -e "$target"
