"""Lets vLLM's CPU build start with packages of PyPI, whose torchvision, torchaudio and torchcodec are built for GPUs.

torchaudio and torchcodec are hidden, and torchvision gets the signatures of the operators that its library would have.
With builds for CPUs, which PyTorch's own index has, none of this is needed.
"""

import importlib.abc
import importlib.util
import sys

ABSENT = ("torchaudio", "torchcodec")
find_spec = importlib.util.find_spec


def find_present(name, package=None):
    return None if name.split(".")[0] in ABSENT else find_spec(name, package)


class Finder(importlib.abc.MetaPathFinder):
    library = None

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name == "torchvision" and Finder.library is None:
            import torch

            Finder.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                Finder.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


importlib.util.find_spec = find_present
sys.meta_path.insert(0, Finder())
