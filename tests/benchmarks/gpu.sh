#!/usr/bin/env bash
# The GPU column of NOTES.md, in one command, on a machine with a GPU, torch and transformers:
#
#   tests/benchmarks/gpu.sh FOLDER
#
# Results are left in FOLDER, named after the device. Anything else that the training core and its
# tests need is installed if it is missing; only from wheels if WHEELS names a folder of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "${1:?FOLDER for the results}"
target=$(realpath "$1")
python=${PYTHON:-python3}
packages=(filelock hypothesis pyarrow pydantic pytest PyYAML safetensors tokenizers tqdm)

"$python" -c 'import filelock, hypothesis, pyarrow, pydantic, pytest, yaml, safetensors, tokenizers, tqdm' ||
  "$python" -m pip install --quiet ${WHEELS:+--no-index --find-links "$WHEELS"} "${packages[@]}"
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-"))')
echo "device: $device"

bench() { # NAME BENCHMARK OPTIONS …
  echo "$1"
  "$python" -m mtdnn bench "${@:2}" --folder "$target/material" --precision bf16 --json \
    >"$target/$device-$1.json" || echo "$1 failed"
}

# First check that recorded steps are equal; otherwise their speed would not matter.
"$python" -m pytest -q tests/training/test_stepper.py tests/model/test_optimizer.py \
  -k "cuda or compiled" || echo "parity failed"
bench train-base train --encoder base
bench train-large train --encoder large --only qa
bench paper paper
bench decode decode --encoder base --rounds 3
