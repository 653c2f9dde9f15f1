"""OmniMedVQA (arXiv 2402.09181), the folder as distributed.

`QA_information/Open-access/*.json` and `Restricted-access/*.json` are arrays of `{"dataset", "question_id",
"question_type", "question", "gt_answer", "image_path", "option_A", ..., "option_D", "modality_type"}`; one row has
`modality` instead of `modality_type`. The images of the restricted part are not distributed: its rows come out with
`missing` set until the files are put in their place.
"""

from pathlib import Path

from medvlm_r1.data.importing.draft import Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import known_modality
from medvlm_r1.data.readers.fields import kept, needed, text, words
from medvlm_r1.data.readers.layout import absent, parts_of
from medvlm_r1.data.readers.lettered import lettered_columns, right_option

_QUESTIONS = "QA_information"
_RESTRICTED = "Restricted-access"


def _find(source: Path) -> Source:
    if source.is_file():
        # A file of the folder finds the images of the folder.
        root = next((up for up in source.parents if (up / "Images").is_dir()), source.parent)
        return Source(root=root, parts=parts_of([source], source.parent))
    base = source / _QUESTIONS if (source / _QUESTIONS).is_dir() else source
    files = [file for kind in ("Open-access", _RESTRICTED) for file in (base / kind).glob("*.json")]
    if not files:
        raise absent(source, [f"{_QUESTIONS}/Open-access/*.json", f"{_QUESTIONS}/{_RESTRICTED}/*.json"])
    return Source(root=base.parent if base.name == _QUESTIONS else base, parts=parts_of(files, base))


def _modality(row: Row, part: Part) -> str:
    field = "modality" if "modality_type" not in row and "modality" in row else "modality_type"
    return known_modality(text(row, field), field)


def _draft(row: Row, part: Part) -> Draft:
    options = lettered_columns(row, "option_{}")
    restricted = part.file.parent.name == _RESTRICTED
    pictured = not restricted or bool(row.get("image_path"))
    needed(row, "dataset")
    return Draft(
        question=words(row, "question"),
        options=options,
        answer=right_option(words(row, "gt_answer"), options),
        images=(text(row, "image_path"),) if pictured else (),
        missing=not pictured,
        question_type=words(row, "question_type"),
        record=kept(row, "dataset", "question_id") | {"access": "restricted" if restricted else "open"},
    )


import_omnimedvqa = Importer(
    name="omnimedvqa",
    origin="foreverbeliever/OmniMedVQA (arXiv 2402.09181)",
    license="as published; each of its data sets has its own",
    find=_find,
    modality=_modality,
    draft=_draft,
    folders=("", "Images"),
)
