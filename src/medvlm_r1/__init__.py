"""MedVLM-R1."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvlm_r1.serving.medvlm import MedVLM as MedVLM


def __getattr__(name: str) -> Any:
    # Not imported before it is asked for: a command's help must not wait for what answers questions.
    if name == "MedVLM":
        from medvlm_r1.serving.medvlm import MedVLM

        return MedVLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
