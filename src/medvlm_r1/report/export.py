"""Export of a training run or checkpoint for publishing: model, configuration and model card.

A LoRA adapter is merged into its base model.

The card contains only measured results: evaluations of this model and verdicts of data audits. It states if either is
missing. Only the last component of a folder's path is written.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from medvlm_r1.disk import read_mapping
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.store import read_results
from medvlm_r1.models.adapter import is_adapter
from medvlm_r1.models.load import base_name, fingerprint, write_model
from medvlm_r1.report.page import render_page

CONFIG = "training_config.yaml"
_OURS = "expected a file that this project wrote"
_VERSIONS = ("medvlm-r1", "trl", "transformers", "torch")


def export(
    run: Path | str,
    out: Path | str,
    *,
    evaluations: Iterable[Path | str] = (),
    audits: Iterable[Path | str] = (),
    name: str | None = None,
) -> Path:
    """Write the folder with the model, its training configuration and its model card.

    Args:
        run: Run folder of a finished training, a checkpoint folder in it, or any folder with a LoRA adapter
            (`FOLDER#BASE` names the base model to merge it into).
        out: Folder to write; it must not exist.
        evaluations: Run folders of evaluations of this model.
        audits: JSON files of `audit data`.
        name: Name of the model on the card, such as its hub id; by default the last part of `out`.

    Returns:
        `out`.

    Raises:
        UserError: The training is not finished, the adapter's base model is missing, `out` exists, or an evaluation is
            of another model.
    """
    from huggingface_hub import EvalResult, ModelCardData

    out = Path(out)
    model, training = _source(str(run))
    if out.exists():
        raise UserError(f"{out} already exists; name a new folder, or remove it.")
    results = [_evaluation(Path(folder), fingerprint(model)) for folder in evaluations]
    data, versions = {}, {}
    if training is None:
        config: dict[str, Any] = {"model": _named(base_name(model)), "method": None}
    else:
        config = _published(read_mapping(training / "config.yaml", _OURS))
        folders = read_mapping(training / "data.json", _OURS).items()
        data = {role: entry | {"name": Path(entry["folder"]).name} for role, entry in folders}
        packages = read_mapping(training / "env.json", _OURS).get("packages", {})
        versions = {package: packages[package] for package in _VERSIONS if package in packages}
    figures = [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type=evaluation["name"],
            dataset_name=evaluation["name"],
            dataset_config=modality,
            metric_type="accuracy",
            metric_value=round(cell["percent"], 2),
        )
        for evaluation in results
        for modality, cell in evaluation["accuracy"].items()
        if modality != "mean"
    ]
    metadata = ModelCardData(
        model_name=name or out.name,
        base_model=config["model"],
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["radiology", "medical", "reasoning", config["method"] or "lora"],
        eval_results=figures or None,
    )
    card = render_page(
        "card.md",
        card_data=metadata.to_yaml(),
        name=name or out.name,
        config=config,
        evaluations=results,
        audits=[_audit(Path(file)) for file in audits],
        step=Path(model.partition("#")[0]).name.removeprefix("checkpoint-") if model == str(run) else "",
        data=data,
        versions=versions,
    )
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if model == str(run):
        # Optimizer and other states of a checkpoint are not published.
        write_model(model, partial)
    else:
        shutil.copytree(model, partial)
    if training is not None:
        (partial / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (partial / "README.md").write_text(card, encoding="utf-8")
    partial.rename(out)
    return out


def _source(run: str) -> tuple[str, Path | None]:
    """Return the model to export and its training folder, which is None for an adapter trained elsewhere."""
    if (Path(run) / "model").is_dir():
        return str(Path(run) / "model"), Path(run)
    folder = Path(run if Path(run).is_dir() else run.rpartition("#")[0] or run)
    training = folder.resolve().parent.parent
    trained_here = (training / "config.yaml").is_file() and folder.name.startswith("checkpoint-")
    if is_adapter(folder) or (trained_here and (folder / "config.json").is_file()):
        return run, training if trained_here else None
    checkpoints = sorted(map(str, folder.glob("checkpoints/checkpoint-*")))
    advice = f" Or name one of its checkpoints: {', '.join(checkpoints)}." if checkpoints else ""
    raise UserError(
        f"{run} has no finished training (no model/ in it); expected the run folder of `train`, or a folder with a "
        f"LoRA adapter.{advice}"
    )


def push_to_hub(folder: Path | str, repository: str, *, public: bool = False) -> str:
    """Upload an exported folder to the Hugging Face hub.

    Args:
        folder: A folder that `export` wrote.
        repository: The hub id, "owner/name"; created if missing.
        public: Whether a new repository is public; an existing one is not changed.

    Returns:
        The URL of the upload.

    Raises:
        UserError: The hub rejects the upload or cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=not public, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=str(folder)))
    except Exception as error:  # the hub's HTTP library, and so its error classes, change between releases
        raise UserError(
            f"{repository} could not be uploaded ({type(error).__name__}: {error}). The folder {folder} is complete. "
            "Log in with `hf auth login` and run the command again with another --out, or upload the folder yourself."
        ) from error


def _published(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with local folders reduced to their names."""
    data = {name: Path(folder).name for name in ("train", "eval") if (folder := config["data"].get(name))}
    return {**config, "data": config["data"] | data, "out": Path(config["out"]).name, "model": _named(config["model"])}


def _named(model: str) -> str:
    """Return the last component of a model folder's path; a hub id ("owner/name") is unchanged."""
    return Path(model).name if Path(model).is_absolute() or Path(model).is_dir() else model


def _evaluation(folder: Path, fingerprint: str) -> dict[str, Any]:
    results = read_results(folder)
    # If a dtype was chosen, it follows the fingerprint after a colon.
    if str(results.get("model_fingerprint")).partition(":")[0] != fingerprint:
        raise UserError(
            f"{folder} is an evaluation of another model ({results.get('model')}); expected one of this training."
        )
    return results | {"name": Path(results["data"]).name}


def _audit(file: Path) -> dict[str, Any]:
    audit = read_mapping(file, _OURS)
    if "verdicts" not in audit:
        raise UserError(f"{file} contains no verdicts; expected the JSON of `medvlm-r1 audit data --json`.")
    return {"name": Path(str(audit.get("data", file.stem))).name, "verdicts": audit["verdicts"]}
