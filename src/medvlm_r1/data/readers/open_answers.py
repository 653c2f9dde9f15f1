"""Readers of data sets with written answers: SLAKE, VQA-RAD and PathVQA.

**slake** (arXiv 2102.09542) consists of `train.json`, `validation.json`, `test.json` and `imgs/`, in English and
Chinese. A row is `{"img_id", "img_name": "xmlab102/source.jpg", "question", "answer", "q_lang", "location", "modality",
"answer_type", "base_type", "content_type", "triple", "qid"}`.

**vqa-rad** is the original `VQA_RAD Dataset Public.json`, or the tables of the Hugging Face hub. A row of the original
is `{"qid", "image_name", "image_organ", "answer", "answer_type", "question_type", "question", "phrase_type", ...}`. The
images are in `VQA_RAD Image Folder`, and the test rows are those whose `phrase_type` begins with `test`. A row of the
hub is `{"image": {"bytes", "path"}, "question", "answer"}`. Neither names the modality.

**path-vqa** is read from the tables of the hub, whose rows have the same form. The images are micrographs and
photographs of specimens, and the data set does not distinguish the two.
"""

from pathlib import Path
from typing import Any

from medvlm_r1.data.importing.draft import Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import known_modality
from medvlm_r1.data.readers import fields
from medvlm_r1.data.readers.closed import closed_options
from medvlm_r1.data.readers.layout import absent, find_files, find_tables, one_file

_SLAKE_FIELDS = ("qid", "location", "answer_type", "base_type", "content_type", "triple")
_VQA_RAD_FIELDS = ("qid", "image_organ", "question_type", "phrase_type", "answer_type")


def _draft(row: Row, image: str | bytes, record: dict[str, Any], *, closed: bool = False, split: str = "") -> Draft:
    """Make the draft of a question, with options if the answer is yes or no or one of two words in the question."""
    question, given = fields.words(row, "question"), fields.words(row, "answer")
    options, answer = closed_options(question, given, choice=closed)
    return Draft(
        question=question,
        options=options,
        answer=answer,
        closed=closed,
        images=(image,),
        split=split,
        record=record | ({"answer": given} if given != answer else {}),
    )


def _is_closed(row: Row) -> bool:
    return fields.only(row, "answer_type", ("OPEN", "CLOSED")) == "CLOSED"


def _slake_draft(row: Row, part: Part) -> Draft:
    language = fields.only(row, "q_lang", ("EN", "ZH")).lower()
    record = {"language": language} | fields.present_fields(row, *_SLAKE_FIELDS)
    return _draft(row, fields.text(row, "img_name"), record, closed=_is_closed(row))


def _vqa_rad_draft(row: Row, part: Part) -> Draft:
    record = fields.present_fields(row, *_VQA_RAD_FIELDS)
    if "image_name" not in row:
        return _draft(row, fields.as_image(fields.needed(row, "image"), "image"), record)
    is_test = str(row.get("phrase_type", "")).strip().lower().startswith("test")
    split = "test" if is_test else "train"
    return _draft(row, fields.text(row, "image_name"), record, closed=_is_closed(row), split=split)


def _path_vqa_draft(row: Row, part: Part) -> Draft:
    return _draft(row, fields.as_image(fields.needed(row, "image"), "image"), {})


def _find_vqa_rad(source: Path) -> Source:
    return find_tables(source) or one_file(source, "VQA_RAD Dataset Public.json")


def _find_path_vqa(source: Path) -> Source:
    tables = find_tables(source)
    if tables is None:
        raise absent(source, ["data/train-*.parquet", "*.arrow"])
    return tables


OPEN_ANSWERS = (
    Importer(
        name="vqa-rad",
        origin="VQA-RAD (osf.io/89kps; flaviagiammarino/vqa-rad on the hub)",
        license="CC0-1.0",
        find=_find_vqa_rad,
        draft=_vqa_rad_draft,
        folders=("VQA_RAD Image Folder", "images", ""),
    ),
    Importer(
        name="slake",
        origin="SLAKE (BoKelvin/SLAKE on the hub)",
        license="CC-BY-4.0",
        find=lambda source: find_files(source, (), ("train.json", "validation.json", "validate.json", "test.json")),
        modality=lambda row, part: known_modality(fields.text(row, "modality"), "modality"),
        draft=_slake_draft,
        folders=("imgs", "images", ""),
    ),
    Importer(
        name="path-vqa",
        origin="PathVQA (flaviagiammarino/path-vqa on the hub)",
        find=_find_path_vqa,
        draft=_path_vqa_draft,
    ),
)
