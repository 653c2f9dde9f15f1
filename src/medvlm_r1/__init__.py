"""MedVLM-R1: vision-language models that reason about radiology images."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvlm_r1.serving.medvlm import MedVLM as MedVLM


def __getattr__(name: str) -> Any:
    # Import lazily, so that the help of a command does not load the inference code.
    if name == "MedVLM":
        from medvlm_r1.serving.medvlm import MedVLM

        return MedVLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
