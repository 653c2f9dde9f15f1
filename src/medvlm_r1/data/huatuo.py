"""Reader of the multiple-choice collection that HuatuoGPT-Vision published and MedVLM-R1 was trained and tested on.

Source: `FreedomIntelligence/Medical_Multimodal_Evaluation_Data` (Apache-2.0), one JSON array of
`{"question", "image": ["images/x.png"], "options", "answer", "dataset", "subset"}`; the 900 test questions that
MedVLM-R1 (arXiv 2502.19634) released are rows of it with `problem` and `solution` (the letter) added.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medvlm_r1.data.importing import ImageFinder, ImportReport, chosen_modalities, finish_import
from medvlm_r1.data.modality import MODALITIES, modality_name
from medvlm_r1.data.rows import bad_row, read_json_array
from medvlm_r1.data.sample import Sample, image_stem
from medvlm_r1.errors import UserError

_SOURCE = "FreedomIntelligence/Medical_Multimodal_Evaluation_Data"
_FIELDS = {"question": str, "image": list, "options": list, "answer": str, "subset": str}


def import_huatuo(
    json_path: str | Path, *, images: str | Path, out: str | Path, modality: str | Iterable[str] | None = None
) -> ImportReport:
    """Make a data folder from the collection.

    The whole file is checked before anything is written. Samples are named by their row, `huatuo-000123` for row 123;
    the subject is the stem of the image, as the collection names no patients.

    Args:
        json_path: `medical_multimodel_evaluation_data.json`, or a file with the same rows.
        images: The folder that holds the `images` folder of the collection, or that folder itself.
        out: The data folder to make or replace. Images that are there are copied to `out/images`; a row whose image
            is not there is kept with `missing=True`.
        modality: Keep these modalities only, in any known spelling. The collections in the file that name no modality
            (PMC-VQA and others) are left out then; without it they are an error, as a sample must have one.

    Returns:
        The report.

    Raises:
        UserError: A row is malformed, lacks a field, has an unknown modality, an answer that is not among its options
            or a `solution` letter that contradicts it (file and row are named); or no row is left.
    """
    json_path, out = Path(json_path), Path(out)
    wanted = chosen_modalities(modality)
    finder = ImageFinder(root=Path(images))
    samples: list[Sample] = []
    number = 0
    for number, row in read_json_array(json_path):
        try:
            name = _modality(row, optional=wanted is not None)
            if name is None or (wanted is not None and name not in wanted):
                continue
            samples.append(_sample(row, number, name, finder))
        except ValueError as error:
            raise bad_row(json_path, number, str(error)) from error
    if number == 0:
        raise UserError(f"{json_path}: the array is empty; there is nothing to import")
    info = {"name": "huatuo", "source": _SOURCE, "license": "Apache-2.0", "file": json_path.name}
    return finish_import(out, samples, finder, rows=number, info=info)


def _modality(row: dict[str, Any], *, optional: bool) -> str | None:
    _check_field(row, "subset")
    subset: str = row["subset"]
    name = modality_name(subset)
    # Only OmniMedVQA writes a modality into `subset`: elsewhere it is empty or the name of a part.
    foreign = not subset.strip() or row.get("dataset", "OmniMedVQA") != "OmniMedVQA"
    if name is None and not (foreign and optional):
        hint = "; choose modalities to leave such rows out" if foreign else ""
        raise ValueError(f"unknown modality {subset!r} in 'subset'; known: {', '.join(MODALITIES)}{hint}")
    return name


def _sample(row: dict[str, Any], number: int, modality: str, finder: ImageFinder) -> Sample:
    for name in _FIELDS:
        _check_field(row, name)
    for name in row["image"]:
        if not isinstance(name, str):
            raise ValueError(f"'image' must be a list of paths, saw {name!r} in it")
    placed = [finder.place(name) for name in row["image"]]
    images = tuple(name for name, _ in placed)
    sample = Sample(
        id=f"huatuo-{number:06d}",
        images=images,
        question=row["question"],
        options=tuple(row["options"]),
        answer=row["answer"],
        modality=modality,
        subject=image_stem(images),
        missing=not all(there for _, there in placed),
        record={name: row[name] for name in ("dataset", "subset") if name in row},
    )
    if row.get("solution", sample.letter) != sample.letter:
        raise ValueError(f"solution {row['solution']!r} contradicts the answer, which is option {sample.letter!r}")
    return sample


def _check_field(row: dict[str, Any], name: str) -> None:
    if name not in row:
        raise ValueError(f"field {name!r} is missing")
    if not isinstance(row[name], _FIELDS[name]):
        wanted = "text" if _FIELDS[name] is str else "a list"
        raise ValueError(f"field {name!r} must be {wanted}, saw {row[name]!r}")
