"""VQA-RAD: the original `VQA_RAD Dataset Public.json`, or the tables of the Hugging Face hub.

A row of the original is `{"qid", "image_name", "image_organ", "answer", "answer_type", "question_type", "question",
"phrase_type", ...}`, the pictures are in `VQA_RAD Image Folder`, and the test rows are those whose phrase type begins
with `test`. A row of the hub is `{"image": {"bytes", "path"}, "question", "answer"}`. Neither names the modality.
"""

from pathlib import Path

from medvlm_r1.data.importing.draft import Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import UNKNOWN
from medvlm_r1.data.readers.closed import closed_options
from medvlm_r1.data.readers.fields import image, kept, only, text, words
from medvlm_r1.data.readers.layout import hub_tables, one_file

_KEPT = ("qid", "image_organ", "question_type", "phrase_type", "answer_type")


def _find(source: Path) -> Source:
    tables = hub_tables(source)
    if tables:
        return Source(root=source.parent if source.is_file() else source, parts=tables)
    return one_file(source, "VQA_RAD Dataset Public.json")


def _modality(row: Row, part: Part) -> str:
    return UNKNOWN


def _draft(row: Row, part: Part) -> Draft:
    question, given = words(row, "question"), words(row, "answer")
    original = "image_name" in row
    closed = original and only(row, "answer_type", ("OPEN", "CLOSED")) == "CLOSED"
    options, answer = closed_options(question, given, choice=closed)
    phrase = str(row.get("phrase_type", "")).strip().lower()
    return Draft(
        question=question,
        options=options,
        answer=answer,
        closed=closed,
        images=(text(row, "image_name") if original else image(row),),
        split=("test" if phrase.startswith("test") else "train") if original else "",
        record=kept(row, *_KEPT) | ({"answer": given} if given != answer else {}),
    )


import_vqa_rad = Importer(
    name="vqa-rad",
    origin="VQA-RAD (osf.io/89kps; flaviagiammarino/vqa-rad on the hub)",
    license="CC0-1.0",
    find=_find,
    modality=_modality,
    draft=_draft,
    folders=("VQA_RAD Image Folder", "images", ""),
)
