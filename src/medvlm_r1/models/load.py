"""Find and load a policy: a vision-language model and its processor.

A policy is named by a folder, a hub id ("owner/name") or `phantom-base`, the small base model of this package. A LoRA
adapter is loaded with its base model; `FOLDER#BASE` names another base. Only transformers' Auto classes are used, so
every image-text-to-text family works. Code shipped with a model is never run, and weights are read from safetensors
files only.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.data.names import nearest
from medvlm_r1.errors import UserError
from medvlm_r1.models.adapter import base_candidates, is_adapter, key_problems, merge_adapter
from medvlm_r1.models.device import best_device, inference_dtype
from medvlm_r1.models.processor import ImageFit, load_processor

PHANTOM_BASE = "phantom-base"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_VISION_KEY = re.compile(r"(image|video|vision)\w*_token_(id|index)")
_VISION_TOKEN = re.compile(r"<\|?(image|video|vision)\w*\|?>")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# The weights come first, so that `[1:]` leaves them out.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A vision-language model, and the processor that prepares its input."""

    model: Any
    """An image-text-to-text model of transformers, in evaluation mode."""
    processor: Any
    """Its processor (tokenizer, image processor and chat template), padding on the left."""
    name: str
    """The name by which the policy was requested."""


def phantom_base_dir() -> Path:
    """The folder of the base model shipped inside the package."""
    return Path(__file__).parent / "phantom_base"


def locate(model: str, *, weights: bool = True) -> Path:
    """The local folder of a model. A model on the hub is downloaded, or read from the hub cache.

    Args:
        model: A folder, a hub id, or `phantom-base`. A folder takes precedence over a hub id of the same name.
        weights: Whether its weights are needed. If not, only its small files are downloaded.

    Raises:
        UserError: There is no such folder, the hub cannot be reached, or the folder holds an adapter or an incomplete
            model.
    """
    return _checked(_folder(model, weights=weights), weights=weights)


def _checked(folder: Path, *, weights: bool = True) -> Path:
    if is_adapter(folder):
        raise UserError(
            f"{folder} holds a LoRA adapter, not a whole model. Merge it into its base model first: "
            f"medvlm-r1 export {folder} --out MERGED, then name that folder."
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a model folder: it has no config.json. {_models_inside(folder)}")
    if weights and not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no *.safetensors weights{_pickled(folder)}")
    if weights:
        _check_indexes(folder)
    return folder


def locate_with_base(model: str) -> tuple[Path, Path | None]:
    """The folder of a model's full weights, and the folder of its LoRA adapter (None if there is no adapter).

    Args:
        model: A model or an adapter, in a form that `locate` accepts. `ADAPTER#BASE` names the adapter's base model.
            Without `#BASE`, the recorded base model is used (see `base_candidates`); it is never downloaded.

    Raises:
        UserError: See `locate`; or the base model of an adapter is not on this machine.
    """
    name, base = _split(model)
    folder = _folder(name)
    if not is_adapter(folder):
        if base:
            raise UserError(f"{folder} is not a LoRA adapter, so it takes no base model; leave out '#{base}'.")
        return _checked(folder), None
    if base:
        return locate(base), folder
    candidates = base_candidates(folder)
    for candidate in candidates:
        if candidate == PHANTOM_BASE or Path(candidate).expanduser().is_dir():
            return locate(candidate), folder
        if _HUB_ID.fullmatch(candidate):
            with contextlib.suppress(UserError):
                return _checked(_download(candidate, _MODEL_FILES, cached=True)), folder
    record = f"on record as {' and '.join(map(repr, candidates))}" if candidates else "not on record"
    raise UserError(
        f"{folder} is a LoRA adapter, and its base model is not on this machine ({record}). Nothing is downloaded "
        f"unasked: name the base as '{name}#BASE', where BASE is a folder or a hub id."
    )


def base_name(adapter: str) -> str:
    """The name of an adapter's base model: BASE in `ADAPTER#BASE`, otherwise the first recorded name."""
    name, base = _split(adapter)
    return base or next(iter(base_candidates(_folder(name))), "unknown")


def _split(model: str) -> tuple[str, str]:
    """The parts of `ADAPTER#BASE`; the second is empty for any other name."""
    name, mark, base = model.rpartition("#")
    return (name, base) if mark and not Path(model).expanduser().is_dir() else (model, "")


def _folder(model: str, *, weights: bool = True) -> Path:
    folder = phantom_base_dir() if model == PHANTOM_BASE else Path(model).expanduser()
    return folder if folder.is_dir() else _download(model, _MODEL_FILES if weights else _MODEL_FILES[1:])


def _models_inside(folder: Path) -> str:
    """Advice on which folder to name instead of a folder without a model."""
    inside = [folder / "model", *folder.glob("checkpoints/checkpoint-*"), *folder.glob("checkpoint-*")]
    models = [path for path in inside if (path / "config.json").is_file() or (path / "adapter_config.json").is_file()]
    if models:
        return f"Name a model in it: {', '.join(map(str, sorted(models)))}."
    return "Name a folder that save_pretrained wrote."


def _check_indexes(folder: Path) -> None:
    """Reject an index of weight files that names a pickle, which transformers would open."""
    for index in folder.glob("*.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            wrong = sorted(str(name) for name in named if Path(name).suffix != ".safetensors")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{index}: the list of weight files is damaged ({error}); copy the folder again") from error
        if wrong and "safetensors" in index.name:
            raise UserError(f"{index}: it names {wrong[0]} as weights; only safetensors files are read")


def _pickled(folder: Path) -> str:
    """End of an error message: the pickles in a folder without safetensors files, and what to do about them."""
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if not pickles:
        return ". Copy the whole folder again, or name one that save_pretrained wrote."
    return (
        f", only {pickles[0]}. That is a pickle, which can run any code when it is read, so it never is. If you trust "
        "where it comes from, convert it once, best in a container without network: "
        'python -c "from transformers import AutoModelForImageTextToText as M, AutoProcessor as P; '
        f"[K.from_pretrained('{folder}').save_pretrained('safe') for K in (M, P)]\" "
        "- then name the folder 'safe'."
    )


def _download(model: str, files: Sequence[str], *, cached: bool = False) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if not _HUB_ID.fullmatch(model):
        near = nearest(model, [PHANTOM_BASE])
        raise UserError(
            f"No model folder {model!r}, and it is not a hub id (owner/name) nor {PHANTOM_BASE!r}"
            + (f"; did you mean {near!r}?" if near else ".")
        )
    try:
        return Path(snapshot_download(model, allow_patterns=list(files), local_files_only=cached))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"No folder {model!r} here, and the hub model {model!r} could not be fetched ({type(error).__name__}). "
            "Check the name and the connection, or give the folder of a downloaded copy."
        ) from error


def load_policy(
    model: str, *, dtype: Any = "auto", device: str | None = None, model_init: Mapping[str, Any] | None = None
) -> Policy:
    """Load a model with its processor. A LoRA adapter is merged into its base model.

    Args:
        model: A model or an adapter, in a form that `locate_with_base` accepts.
        dtype: A torch dtype, its name, or "auto", which chooses by `inference_dtype` (on a CPU: float32).
        device: "cpu", "cuda", "cuda:1", "mps"; None for the best available device.
        model_init: Further arguments of `from_pretrained`, such as `attn_implementation`.

    Raises:
        UserError: The model cannot be found, or it is not an image-text-to-text model. Also if its files are damaged or
            incomplete, or if they contain a tensor that belongs to no layer.
    """
    device = device or best_device()
    folder, adapter = locate_with_base(model)
    if dtype == "auto":
        dtype = inference_dtype(device.partition(":")[0], _stored_dtype(folder))
    network, processor = _load(folder, adapter, dtype, model_init or {})
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Policy(model=network.to(device).eval(), processor=processor, name=model)


def write_model(model: str, out: Path) -> None:
    """Write a model and its processor to a new folder, in the stored dtype.

    An adapter is merged into its base model, whose dtype is kept.

    Args:
        model: A model or an adapter, in a form that `load_policy` accepts.
        out: The new folder.

    Raises:
        UserError: See `load_policy`.
    """
    network, processor = _load(*locate_with_base(model), "auto", {})
    forget_last_batch(processor)
    network.save_pretrained(out)
    processor.save_pretrained(out)


def forget_last_batch(processor: Any) -> None:
    """Reset the padding and truncation of the last batch, which the tokenizer would otherwise save in its file."""
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()


def load_merged(base: str, adapter: Path) -> Any:
    """A base model with an adapter merged, on the CPU, in the dtype of the base model's files.

    Args:
        base: The base model, in a form that `locate` accepts.
        adapter: The adapter folder.

    Raises:
        UserError: See `load_policy`.
    """
    return _load(locate(base), adapter, "auto", {})[0]


def _stored_dtype(folder: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        dtype: str | None = config.get("dtype") or config.get("torch_dtype")
        return dtype
    return None


def _load(folder: Path, adapter: Path | None, dtype: Any, init: Mapping[str, Any]) -> tuple[Any, Any]:
    """Load the model on the CPU, with its adapter merged, and the processor. "auto" means the stored dtype."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    fixed = {"trust_remote_code": False, "local_files_only": True}
    try:
        # transformers would print a table of mismatched keys before `_check_keys` reports them.
        with quiet_bars(warnings=False):
            network, info = AutoModelForImageTextToText.from_pretrained(
                folder,
                # With an adapter, the weights are loaded unrounded, so that only the merged sum is rounded.
                dtype=dtype if adapter is None else "auto",
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **init,
                **fixed,
            )
            processor = load_processor(_processor_folder(folder, adapter))
    except (MemoryError, UserError):
        raise
    # A damaged config.json makes transformers raise nearly anything: KeyError, TypeError, ZeroDivisionError, ...
    except Exception as error:
        reason = str(error)
        if not isinstance(error, OSError | ValueError | RuntimeError | SafetensorError):
            reason = (
                f"{type(error).__name__}: {error}; its files do not fit together or are damaged, copy the folder again"
            )
        raise UserError(f"{folder} cannot be loaded as an image-text-to-text model: {reason}") from error
    _check_keys(folder, info)
    if network.config.model_type == "mistral3":
        from medvlm_r1.models.families import keep_single_tokens

        keep_single_tokens()
    if adapter is not None:
        rounded = network.dtype if dtype == "auto" else getattr(torch, str(dtype).removeprefix("torch."))
        network = merge_adapter(network.float(), adapter)
        # Only parameters are converted: rotary frequencies stay in float32, as in `from_pretrained`.
        for weight in network.parameters():
            weight.data = weight.data.to(rounded)
    return network, processor


def processor_folder(model: str) -> Path:
    """The folder with the processor of a model: the model's own folder, its adapter's, or the base model's.

    Args:
        model: A model or an adapter, in a form that `load_policy` accepts. A full model needs no weights.

    Raises:
        UserError: See `locate_with_base`.
    """
    if is_adapter(_folder(_split(model)[0])):
        return _processor_folder(*locate_with_base(model))
    return locate(model, weights=False)


def image_fit(model: str, prepare: Callable[[Any], None] = lambda processor: None) -> ImageFit:
    """Make an `ImageFit`, which checks whether a model accepts an image size.

    Args:
        model: A folder, a hub id, or `phantom-base`; its weights are not needed.
        prepare: Function that first changes the image processor (its pixel bounds, for example).

    Raises:
        UserError: The model cannot be found, or its processor cannot be loaded.
    """
    processor = load_processor(processor_folder(model)).image_processor
    prepare(processor)
    return ImageFit(model=model, processor=processor)


def _processor_folder(folder: Path, adapter: Path | None) -> Path:
    """The adapter's folder if it holds a processor (its pixel bounds may differ), otherwise the base model's."""
    names = ("preprocessor_config.json", "processor_config.json")
    return adapter if adapter and any((adapter / name).is_file() for name in names) else folder


def _check_keys(folder: Path, info: Mapping[str, Any]) -> None:
    """Check that every tensor in the files was loaded into a layer, and that every layer was loaded from the files.

    The lists of transformers omit tensors that a family may lack or add (tied output layers, old buffers).
    """
    unexpected = info["unexpected_keys"]
    problems = key_problems(
        missing=info["missing_keys"],
        unexpected=unexpected,
        mismatched=[key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]],
    )
    if not problems:
        return
    todo = "Copy the whole folder again, or name one that save_pretrained wrote for this config.json."
    if any("lora_" in key for key in unexpected):
        todo = (
            "These are LoRA weights that were not merged, and would be left out. Merge them with peft's "
            "merge_and_unload, or save them as an adapter (peft's save_pretrained) and name that folder."
        )
    raise UserError(f"{folder}: its weights do not match its config.json: {problems}. {todo}")


@contextlib.contextmanager
def quiet_bars(*, warnings: bool = True) -> Iterator[None]:
    """Hide transformers' progress bars for weight files.

    Args:
        warnings: Whether warnings of transformers are shown.
    """
    from transformers.utils import logging

    visible, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    if not warnings:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if visible:
            logging.enable_progress_bar()


def fingerprint(model: str) -> str:
    """SHA-256 over the weights, configuration and processor files of a model, for cache keys.

    Args:
        model: A model or an adapter, in a form that `load_policy` accepts. The hash of an adapter includes its base
            model's files.
    """
    total = hashlib.sha256()
    for folder in filter(None, locate_with_base(model)):
        for file in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}):
            with file.open("rb") as stream:
                total.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def vision_token_ids(*sources: Any) -> list[int]:
    """Ids of image and video tokens: placeholders, start and end markers.

    If such a token is sampled, the next forward pass crashes, because there are no image features for it. Pass the ids
    as `suppress_tokens` whenever text is sampled.

    Args:
        sources: Models and processors.

    Returns:
        Sorted ids from all sources.
    """
    ids: set[int] = set()
    for source in sources:
        if hasattr(source, "config"):
            config = source.config.to_dict()
            for settings in [config, *(value for value in config.values() if isinstance(value, dict))]:
                ids.update(v for k, v in settings.items() if _VISION_KEY.fullmatch(str(k)) and isinstance(v, int))
        if hasattr(source, "tokenizer"):
            vocabulary = source.tokenizer.get_added_vocab()
            ids.update(index for token, index in vocabulary.items() if _VISION_TOKEN.fullmatch(token))
    return sorted(ids)
