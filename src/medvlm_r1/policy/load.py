"""Find and load a policy: a vision-language model and its processor.

A policy is named by a folder, a hub id ("owner/name") or `phantom-base`, the small base inside this package. Only
transformers' Auto classes are used, so any image-text-to-text family works; code shipped with a model is never run,
and weights are read from safetensors files alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.data.names import nearest
from medvlm_r1.errors import UserError
from medvlm_r1.policy.mistral3 import keep_single_tokens
from medvlm_r1.policy.processor import load_processor

PHANTOM_BASE = "phantom-base"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_VISION_KEY = re.compile(r"(image|video|vision)\w*_token_(id|index)")
_VISION_TOKEN = re.compile(r"<\|?(image|video|vision)\w*\|?>")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# The weights first.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A model that answers, and the processor that prepares its input."""

    model: Any
    """An image-text-to-text model of transformers, in evaluation mode."""
    processor: Any
    """Its processor (tokenizer, image processor and chat template), padding on the left."""
    name: str
    """The name it was asked for by."""


def phantom_base_dir() -> Path:
    """The folder of the base model shipped inside the package."""
    return Path(__file__).parent / "phantom_base"


def locate(model: str, *, weights: bool = True) -> Path:
    """The local folder of a model; a hub id is downloaded (or taken from the hub cache).

    Args:
        model: a folder, a hub id, or `phantom-base`. A folder wins over a hub id of the same name.
        weights: whether its weights are needed; without, only its small files are downloaded.

    Raises:
        UserError: no such folder, the hub cannot be reached, or the folder holds no complete model.
    """
    folder = phantom_base_dir() if model == PHANTOM_BASE else Path(model).expanduser()
    if model != PHANTOM_BASE and not folder.is_dir():
        folder = _download(model, _MODEL_FILES if weights else _MODEL_FILES[1:])
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise UserError(
                f"{folder} holds a LoRA adapter alone; merge it into its base model and name the merged folder."
            )
        raise UserError(
            f"{folder} is not a model folder: it has no config.json. Name a folder that save_pretrained wrote."
        )
    if weights and not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no *.safetensors weights{_pickled(folder)}")
    if weights:
        _check_indexes(folder)
    return folder


def _check_indexes(folder: Path) -> None:
    """A list of weight files may name a pickle, which transformers would then open."""
    for index in folder.glob("*.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            wrong = sorted(str(name) for name in named if Path(name).suffix != ".safetensors")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{index}: the list of weight files is damaged ({error}); copy the folder again") from error
        if wrong and "safetensors" in index.name:
            raise UserError(f"{index}: it names {wrong[0]} as weights; only safetensors files are read")


def _pickled(folder: Path) -> str:
    """What is there in place of safetensors files, and what to do."""
    found = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if not found:
        return ". Copy the whole folder again, or name one that save_pretrained wrote."
    return (
        f", only {found[0]}. That is a pickle, which can run any code when it is read, so it never is. If you trust "
        "where it comes from, convert it once, best in a container without network: "
        'python -c "from transformers import AutoModelForImageTextToText as M, AutoProcessor as P; '
        f"[K.from_pretrained('{folder}').save_pretrained('safe') for K in (M, P)]\" "
        "- then name the folder 'safe'."
    )


def _download(model: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if not _HUB_ID.fullmatch(model):
        near = nearest(model, [PHANTOM_BASE])
        raise UserError(
            f"No model folder {model!r}, and it is not a hub id (owner/name) nor {PHANTOM_BASE!r}"
            + (f"; did you mean {near!r}?" if near else ".")
        )
    try:
        return Path(snapshot_download(model, allow_patterns=list(files)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"No folder {model!r} here, and the hub model {model!r} could not be fetched ({type(error).__name__}). "
            "Check the name and the connection, or give the folder of a downloaded copy."
        ) from error


def load_policy(
    model: str, *, dtype: Any = "auto", device: str | None = None, model_init: Mapping[str, Any] | None = None
) -> Policy:
    """Load a model with its processor.

    Args:
        model: a folder, a hub id, or `phantom-base`.
        dtype: a torch dtype, its name, or "auto": the checkpoint's own on a GPU, float32 on a CPU, where halves are
            slower.
        device: "cpu", "cuda", "cuda:1", "mps"; the best one present when None.
        model_init: further arguments of `from_pretrained`, such as `attn_implementation`.

    Raises:
        UserError: the model cannot be found, is not an image-text-to-text model, or its files are damaged or
            incomplete.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    folder = locate(model)
    device = device or _best_device()
    if dtype == "auto" and device == "cpu":
        dtype = torch.float32
    fixed = {"trust_remote_code": False, "local_files_only": True}
    try:
        with quiet_bars():
            network, info = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **(model_init or {}), **fixed
            )
            processor = load_processor(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be loaded as an image-text-to-text model: {error}") from error
    except (MemoryError, UserError):
        raise
    # A damaged config.json makes transformers raise nearly anything: KeyError, TypeError, ZeroDivisionError, ...
    except Exception as error:
        raise UserError(
            f"{folder} cannot be loaded as an image-text-to-text model: {type(error).__name__}: {error}; its files do "
            "not fit together or are damaged, copy the folder again"
        ) from error
    if info["missing_keys"]:
        lacking = sorted(info["missing_keys"])
        raise UserError(f"{folder} lacks {len(lacking)} of the model's weights, the first being {lacking[0]}.")
    if network.config.model_type == "mistral3":
        keep_single_tokens()
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Policy(model=network.to(device).eval(), processor=processor, name=model)


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """Hide transformers' bars over weight files, which say nothing a user of a command wants to know."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fingerprint(model: str) -> str:
    """SHA-256 over the weights, configuration and processor files of a model, for cache keys.

    Args:
        model: a folder, a hub id, or `phantom-base`.
    """
    folder = locate(model)
    total = hashlib.sha256()
    for file in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}):
        with file.open("rb") as stream:
            total.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def vision_token_ids(*sources: Any) -> list[int]:
    """Ids of the tokens that stand for images and videos: the pads and their start and end markers.

    A policy that samples one of them crashes the next forward pass, because no image features belong to it; pass the
    ids as `suppress_tokens` wherever text is sampled.

    Args:
        sources: models and processors; the ids of all of them are joined.

    Returns:
        Sorted ids without repeats.
    """
    found: set[int] = set()
    for source in sources:
        if hasattr(source, "config"):
            config = source.config.to_dict()
            for settings in [config, *(value for value in config.values() if isinstance(value, dict))]:
                found.update(v for k, v in settings.items() if _VISION_KEY.fullmatch(str(k)) and isinstance(v, int))
        if hasattr(source, "tokenizer"):
            vocabulary = source.tokenizer.get_added_vocab()
            found.update(index for token, index in vocabulary.items() if _VISION_TOKEN.fullmatch(token))
    return sorted(found)
