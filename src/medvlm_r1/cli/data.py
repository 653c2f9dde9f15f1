"""The `data` commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medvlm_r1.cli.options import Json, Out, completion, described, is_page, page_or_folder, print_result
from medvlm_r1.errors import RESEARCH_USE, UsageError

if TYPE_CHECKING:
    from medvlm_r1.data.sample import Sample
    from medvlm_r1.models.processor import ImageFit

PUBLIC = ("huatuo", "omnimedvqa", "med-r1", "vqa-rad", "slake", "path-vqa", "pmc-vqa")
OWN = ("csv", "tsv", "jsonl", "json", "parquet")
_MODALITIES = completion("MRI", "CT", "X-ray")
Modalities = Annotated[
    list[str] | None, typer.Option(autocompletion=_MODALITIES, help="Use only this modality; repeatable.")
]
FitModel = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Also report images that the processor of this model (folder or hub id) cannot process."
    ),
]
data_app = typer.Typer(help="Import, split and check data folders.", no_args_is_help=True)


@data_app.command("import")
@described
def data_import(
    format: Annotated[
        str, typer.Argument(metavar="FORMAT", autocompletion=completion("phantom", "volumes", *PUBLIC, *OWN))
    ],
    source: Annotated[Path | None, typer.Argument(metavar="SOURCE")] = None,
    *,
    out: Out,
    images: Path | None = None,
    modality: Modalities = None,
    modality_for_missing: Annotated[str | None, typer.Option(autocompletion=_MODALITIES)] = None,
    columns: Annotated[list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN")] = None,
    first_option: Annotated[int | None, typer.Option(min=0, max=1)] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad")] = False,
    closed_choices: Annotated[bool, typer.Option("--closed-choices")] = False,
    salt_file: Path | None = None,
    split: Annotated[str | None, typer.Option(autocompletion=completion("train", "test"))] = None,
    n: int | None = None,
    seed: int | None = None,
    giveaway: Annotated[bool, typer.Option("--giveaway")] = False,
    names: Path | None = None,
    per_volume: Annotated[int | None, typer.Option(min=1)] = None,
    planes: str | None = None,
    window: str | None = None,
    size_bound: list[float] | None = None,
    model: FitModel = None,
    as_json: Json = False,
) -> None:
    """Write a data folder (samples.jsonl, images/) from a public format, your own questions, volumes or PhantomVQA.

    Example: medvlm-r1 data import phantom --out data/phantom/train --split train
    Example: medvlm-r1 data import volumes studies --out data/studies --modality-for-missing CT
    Example: medvlm-r1 data import slake Slake1.0 --out data/slake
    Example: medvlm-r1 data import parquet test.parquet --map answer=answer_label --out data/mine

    Options:
        format: phantom; volumes (with segmentations); a public format (huatuo, omnimedvqa, med-r1, vqa-rad, slake,
            path-vqa, pmc-vqa); or your own questions (csv, tsv, jsonl, json, parquet).
        source: Downloaded file or folder (not for phantom).
        images: Folder of the images, if not next to SOURCE.
        modality_for_missing: Modality of rows without one.
        columns: Own questions: the table column that holds a field; repeatable.
        first_option: Own questions with numbers as answers: number of the first option.
        skip_bad: Skip and list rows or studies that cannot be read.
        closed_choices: slake, vqa-rad: add options to closed questions, taken from the question or the data set.
        salt_file: Salt for hashing subjects from DICOM headers (default: a private one on this machine).
        split: phantom: train or test (default: test).
        n: phantom: questions per modality (default: 600 for train, 300 for test).
        seed: phantom, volumes: seed of the questions (default: 0).
        giveaway: phantom: option texts give the answers away as often as in published sets.
        names: volumes: names of the labels, CSV or JSON (columns label, name, group, kind).
        per_volume: volumes: questions per study (default: 20).
        planes: volumes: planes of the slices (default: axial,coronal,sagittal).
        window: volumes: as for `ask` (default: soft-tissue for CT, otherwise percentile).
        size_bound: volumes: bound of the lesion sizes, mm; repeatable (default: 10 and 30).
    """
    from medvlm_r1.console import progress_bar
    from medvlm_r1.data.importing.importer import report_lines

    fit = _fit(model)
    seeded: dict[str, object] = {"--seed": seed}
    phantom_only: dict[str, object] = {"--split": split, "--n": n, "--giveaway": giveaway or None}
    volumes_only: dict[str, object] = {"--names": names, "--per-volume": per_volume, "--planes": planes}
    volumes_only |= {"--window": window, "--size-bound": size_bound}
    files_only: dict[str, object] = {"SOURCE": source, "--modality-for-missing": modality_for_missing}
    files_only |= {"--skip-bad": skip_bad or None}
    rows_only: dict[str, object] = {"--images": images, "--map": columns, "--salt-file": salt_file}
    rows_only |= {"--first-option": first_option, "--closed-choices": closed_choices or None}
    wrong = {
        "phantom": volumes_only | files_only | rows_only,
        "volumes": phantom_only | rows_only | {"--modality": modality},
    }.get(format, seeded | phantom_only | volumes_only)
    if given := [name for name, value in wrong.items() if value is not None]:
        raise UsageError(f"{' and '.join(given)}: not for {format}.")
    report: dict[str, Any]
    choices: dict[str, Any]
    if format == "phantom":
        from medvlm_r1.phantom.benchmark import write_benchmark

        with progress_bar("PhantomVQA") as advance:
            samples = write_benchmark(
                out,
                split=split or "test",
                modalities=modality or (),
                n=n,
                seed=seed or 0,
                giveaway=giveaway,
                progress=advance,
            )
        report = _own_report(samples, "PhantomVQA")
    elif format == "volumes":
        from medvlm_r1.data.importing.importer import chosen_modalities
        from medvlm_r1.volumes.importer import SUBJECTS, Settings, import_volumes

        if source is None:
            raise UsageError("volumes needs SOURCE, the folder of the studies.")
        choices = {"names": names, "per_volume": per_volume, "seed": seed, "window": window, "skip_bad": skip_bad}
        choices |= {"planes": planes and tuple(planes.split(",")), "sizes": size_bound and tuple(size_bound)}
        choices |= {"modality": next(iter(chosen_modalities(modality_for_missing) or ()), None)}
        settings = Settings(**{name: value for name, value in choices.items() if value is not None})
        with progress_bar("Import volumes") as advance:
            samples, details = import_volumes(source, out, settings, advance)
        report = _own_report(samples, SUBJECTS) | details
    else:
        from dataclasses import asdict

        from medvlm_r1.data.importing.draft import Reading
        from medvlm_r1.data.importing.importer import chosen_modalities
        from medvlm_r1.data.importing.registry import READERS
        from medvlm_r1.data.names import did_you_mean
        from medvlm_r1.data.readers.own import parse_columns

        if format not in READERS:
            raise UsageError(
                f"unknown data format {format!r}; {did_you_mean(format, [*READERS, 'phantom', 'volumes'])}"
            )
        if closed_choices and format not in ("slake", "vqa-rad"):
            raise UsageError(f"--closed-choices is for slake and vqa-rad; {format} does not mark closed questions.")
        if source is None:
            raise UsageError(f"{format} needs SOURCE, the downloaded file or folder.")
        reading = Reading(
            columns=parse_columns(columns or ()),
            first_option=first_option,
            modality_for_missing=next(iter(chosen_modalities(modality_for_missing) or ()), None),
        )
        choices = {"modality": modality or None, "skip_bad": skip_bad, "closed_choices": closed_choices}
        files: dict[str, Any] = {"out": out, "images": images, "salt_file": salt_file}
        with progress_bar(f"Import {format}") as advance:
            report = asdict(READERS[format](source, **files, **choices, reading=reading, progress=advance))
    if fit is not None:
        report["unfit"] = _unfit(out, fit)
    lines = report_lines(report, out=out, own=format in OWN, closed_choices=closed_choices)
    print_result(report, lines, as_json=as_json)


@data_app.command("split")
@described
def data_split(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    *,
    out: Out,
    parts: Annotated[list[str], typer.Option("--part")],
    by: str = "modality,question_type",
    modality: Modalities = None,
    question_type: list[str] | None = None,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Split a data folder into parts that share no subject and no image.

    Example: medvlm-r1 data split data/huatuo --out data/mri --modality MRI --part train=600 --part test=300

    Options:
        folder: Data folder.
        parts: NAME=SIZE: a number of samples, a fraction (0.2) or rest; repeatable.
        by: Comma-separated fields to stratify by, or none.
        question_type: Use only this question type; repeatable.
        seed: Seed of the random split.
    """
    from medvlm_r1.console import progress_bar
    from medvlm_r1.data.split import parse_wish, split_folder
    from medvlm_r1.data.subjects import file_names_warning

    fields = [name.strip() for name in by.split(",") if name.strip() not in ("", "none")]
    wishes = [parse_wish(text) for text in parts]
    filters = {"modalities": modality or (), "question_types": question_type or ()}
    with progress_bar("Images copied") as advance:
        report = split_folder(folder, out, wishes, by=fields, **filters, seed=seed, progress=advance)
    lines = []
    for name, written in report.parts.items():
        off = "" if written.samples == written.wanted else f" (wanted {written.wanted}; groups are never divided)"
        lines.append(f"{name}: {written.samples} samples{off}, {written.missing} without images, in {written.folder}")
        lines += [f"  {stratum}: {count}" for stratum, count in written.by_stratum.items()]
    lines.append(
        f"In no part: {report.left_out}. Groups that share a subject, volume or image: {report.clusters}; "
        f"samples in the largest group: {report.largest_cluster}."
    )
    if report.file_name_subjects:
        lines.append(file_names_warning(report.file_name_subjects))
    if report.old_splits:
        lines.append(f"These parts replace the original splits of the samples ({', '.join(report.old_splits)}).")
    print_result(report.as_record(), lines, as_json=as_json)


@data_app.command("check")
@described
def data_check(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...")],
    *,
    against: list[Path] | None = None,
    near: int = 4,
    allow_near: Annotated[bool, typer.Option("--allow-near")] = False,
    model: FitModel = None,
    out: Annotated[Path | None, typer.Option(callback=page_or_folder)] = None,
    as_json: Json = False,
) -> None:
    """Find bad rows, unreadable images, duplicates, and overlap between folders. Exit code 1 if there are problems.

    Example: medvlm-r1 data check data/mri/train data/mri/test --out check.html

    Options:
        folders: Data folders to check and to compare with each other.
        against: Compare with this folder, but do not check it.
        near: Maximum Hamming distance (0 to 16 of 64 bits) between hashes of near-duplicate images.
        allow_near: Do not report near-duplicates across folders as problems.
        out: Report with a contact sheet: an HTML file, or a folder for it.
    """
    from medvlm_r1.console import progress_bar
    from medvlm_r1.data.check import check_folders
    from medvlm_r1.data.check.findings import check_lines

    with progress_bar("Check") as advance:
        check = check_folders(
            folders,
            against=against or (),
            near=near,
            allow_near=allow_near,
            refuses=_fit(model),
            progress=lambda stage, done, total: advance(done, total, note=stage),
        )
    page = None
    if out is not None:
        from medvlm_r1.report.data_pages import render_check

        page = render_check(check, out if is_page(out) else out / "check.html")
    lines = [*check_lines(check), *([f"Report: {page}"] if page else []), RESEARCH_USE]
    print_result(check.as_record() | {"report": str(page) if page else None}, lines, as_json=as_json)
    if check.problems:
        raise typer.Exit(1)


def _own_report(samples: list[Sample], origin: str) -> dict[str, Any]:
    """Report of an import that makes its own questions."""
    report = {"rows": len(samples), "written": len(samples), "missing": 0, "subjects_from": {origin: len(samples)}}
    return report | {"subjects": len({sample.subject for sample in samples})}


def _fit(model: str | None) -> ImageFit | None:
    """Image size check of a model; None if no model is given or the model runs on a server."""
    from medvlm_r1.models.load import image_fit
    from medvlm_r1.models.remote import is_server

    return None if model is None or is_server(model) else image_fit(model)


def _unfit(folder: Path, fit: ImageFit) -> dict[str, str]:
    """Find rows whose images a model cannot process, and print a message about them on stderr."""
    from medvlm_r1.data.folder import read_folder
    from medvlm_r1.data.image_facts import image_sizes

    samples = read_folder(folder)
    unfit = fit.unfit(enumerate(samples, start=1), image_sizes(folder, samples))
    if unfit:
        message = fit.message(folder, unfit)
        print(f"{message}. Crop or pad them: `train` and `eval` refuse such rows.", file=sys.stderr)
    return unfit
