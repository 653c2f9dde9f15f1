"""SLAKE (arXiv 2102.09542): `train.json`, `validation.json`, `test.json` and `imgs/`, in English and Chinese.

A row is `{"img_id", "img_name": "xmlab102/source.jpg", "question", "answer", "q_lang", "location", "modality",
"answer_type", "base_type", "content_type", "triple", "qid"}`.
"""

from pathlib import Path

from medvlm_r1.data.importing.draft import Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import known_modality
from medvlm_r1.data.readers.closed import closed_options
from medvlm_r1.data.readers.fields import kept, only, text, words
from medvlm_r1.data.readers.layout import absent, parts_of

_FILES = ("train.json", "validation.json", "validate.json", "test.json")
_KEPT = ("qid", "location", "answer_type", "base_type", "content_type", "triple")


def _find(source: Path) -> Source:
    if source.is_file():
        return Source(root=source.parent, parts=parts_of([source], source.parent))
    files = [source / name for name in _FILES if (source / name).is_file()]
    if not files:
        raise absent(source, _FILES)
    return Source(root=source, parts=parts_of(files, source))


def _modality(row: Row, part: Part) -> str:
    return known_modality(text(row, "modality"), "modality")


def _draft(row: Row, part: Part) -> Draft:
    question, given = words(row, "question"), words(row, "answer")
    closed = only(row, "answer_type", ("OPEN", "CLOSED")) == "CLOSED"
    options, answer = closed_options(question, given, choice=closed)
    language = only(row, "q_lang", ("EN", "ZH")).lower()
    return Draft(
        question=question,
        options=options,
        answer=answer,
        closed=closed,
        images=(text(row, "img_name"),),
        record={"language": language} | kept(row, *_KEPT) | ({"answer": given} if given != answer else {}),
    )


import_slake = Importer(
    name="slake",
    origin="SLAKE (BoKelvin/SLAKE on the hub)",
    license="CC-BY-4.0",
    find=_find,
    modality=_modality,
    draft=_draft,
    folders=("imgs", "images", ""),
)
