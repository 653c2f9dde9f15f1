"""LoRA adapters in peft's format: find their base model and merge them into it.

An adapter folder has `adapter_config.json` and `adapter_model.safetensors`, like the `checkpoint-*` folders of a LoRA
training run. A model always runs with the adapter merged, so generation works as for full weights.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from medvlm_r1.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_NAMED = 3


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter instead of a model.

    Raises:
        UserError: The folder holds both full weights and an adapter, so it is unclear which one to load.
    """
    if not (folder / CONFIG).is_file():
        return False
    full = sorted(file.name for file in folder.glob("model*.safetensors"))
    if full:
        raise UserError(
            f"{folder} holds full weights ({full[0]}) and an adapter ({CONFIG}). If the adapter is merged already, "
            f"remove {CONFIG}; otherwise move the adapter's files to a folder of their own."
        )
    return True


def check_adapter(folder: Path) -> dict[str, Any]:
    """Read the configuration of an adapter, and check that its weights exist.

    Raises:
        UserError: The configuration cannot be read, or the folder has no weights in safetensors format.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{folder / CONFIG} is not an adapter configuration ({type(error).__name__}: {error}); copy the folder "
            "again."
        ) from error
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} has no {WEIGHTS}, only its configuration ({kind}). Copy the whole folder again, or save the "
            "adapter with peft's save_pretrained, which writes safetensors. Pickles are never read."
        )
    return dict(config)


def base_candidates(folder: Path) -> list[str]:
    """Recorded names of the base model: first from the adapter's configuration, then from its training run."""
    names = [check_adapter(folder).get("base_model_name_or_path")]
    run = folder.resolve().parent.parent / "config.yaml"
    if run.is_file():
        with contextlib.suppress(OSError, ValueError, TypeError, yaml.YAMLError):
            names.append(dict(yaml.safe_load(run.read_text(encoding="utf-8"))).get("model"))
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def merge_adapter(base: Any, folder: Path) -> Any:
    """Merge an adapter into its base model, in place.

    Args:
        base: A transformers model, preferably in float32 to keep the rounding error small.
        folder: The adapter folder.

    Returns:
        The model with the adapter's low-rank update added to its weights.

    Raises:
        UserError: The adapter does not fit the base, cannot be merged, or holds NaN or Inf.
    """
    from peft import PeftConfig, get_peft_model
    from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict

    check_adapter(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning:
            raise ValueError("it puts learned tokens before the prompt, which is not a change of weights")
        # The base was chosen already; peft warns when its name differs.
        config.base_model_name_or_path = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            adapted = get_peft_model(base, config)
        # Adapters written before transformers 5 name the layers as the hub's files do.
        mapping = getattr(base, "_checkpoint_conversion_mapping", {})
        keys = set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu", key_mapping=mapping))
        missing = [key for key in keys.missing_keys if ".default" in key]
        problems = key_problems(missing=missing, unexpected=keys.unexpected_keys)
        if problems:
            raise UserError(
                f"{folder}: the adapter does not fit its base model: {problems}. Check that this is the base model it "
                f"was trained on; name another one as {folder}#BASE."
            )
        return adapted.merge_and_unload(safe_merge=True)
    except (UserError, MemoryError):
        raise
    # peft raises nearly anything for an adapter of another model: ValueError, KeyError, RuntimeError, ...
    except Exception as error:
        raise UserError(
            f"{folder}: the adapter cannot be merged into {base.config._name_or_path} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Check that this is the base model it was trained on; name another "
            f"one as {folder}#BASE, with a folder or hub id for BASE."
        ) from error


def key_problems(*, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str] = ()) -> str:
    """Describe the tensors that do not match between a file and a model; return "" if all match.

    Args:
        missing: Tensors in the model but not in the file.
        unexpected: Tensors in the file but not in the model.
        mismatched: Tensors in both, with different shapes.
    """
    kinds = (
        ("missing from the file", missing),
        ("in the file that match no layer of the model", unexpected),
        ("of another shape than the model's", mismatched),
    )
    problems = []
    for words, keys in kinds:
        names = sorted(keys)
        if names:
            more = ", ..." if len(names) > _NAMED else ""
            problems.append(f"{len(names)} tensor{'s' * (len(names) > 1)} {words} ({', '.join(names[:_NAMED])}{more})")
    return "; ".join(problems)
