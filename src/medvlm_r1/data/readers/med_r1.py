"""The splits Med-R1 (arXiv 2503.13939) published of OmniMedVQA.

`Splits/modality/{train,test}/*.json` and `Splits/question_type/{train,test}/*.json`, each an array of `{"image",
"problem", "solution"}`: the problem holds the question and its lettered options, the solution is
`<answer> B </answer>`. The modality, or the question type, is the name of the file.
"""

import re
from pathlib import Path

from medvlm_r1.data.importing.draft import Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import UNKNOWN, known_modality
from medvlm_r1.data.readers.fields import image, text
from medvlm_r1.data.readers.layout import absent, parts_of
from medvlm_r1.data.readers.lettered import right_option, split_problem, tagged_answer

_BY_MODALITY = "modality"
_BY_TYPE = "question_type"
_SPLIT_IN_NAME = re.compile(r"[ _-]*(train|test)$|^(train|test)[ _-]*", re.IGNORECASE)


def _find(source: Path) -> Source:
    if source.is_file():
        root = next((up.parent for up in source.parents if up.name == "Splits"), source.parent)
        return Source(root=root, parts=parts_of([source], source.parent))
    # The folder by question type holds the same rows once more.
    folders = (source / "Splits" / _BY_MODALITY, source / _BY_MODALITY, source)
    base = next(folder for folder in folders if folder.is_dir() or folder == source)
    files = [file for file in base.rglob("*.json") if file.parent.name in ("train", "test")]
    if not files:
        raise absent(source, [f"Splits/{_BY_MODALITY}/train/*.json", f"Splits/{_BY_MODALITY}/test/*.json"])
    root = next((up.parent for up in (base, *base.parents) if up.name == "Splits"), source)
    return Source(root=root, parts=parts_of(files, base))


def _modality(row: Row, part: Part) -> str:
    if _BY_TYPE in part.file.parts:
        return UNKNOWN
    return known_modality(_subject_of(part), f"the file name {part.file.name}")


def _draft(row: Row, part: Part) -> Draft:
    question, options = split_problem(text(row, "problem"))
    return Draft(
        question=question,
        options=options,
        answer=right_option(tagged_answer(text(row, "solution")), options, letter_first=True),
        images=(image(row),),
        question_type=_subject_of(part) if _BY_TYPE in part.file.parts else "",
    )


def _subject_of(part: Part) -> str:
    return _SPLIT_IN_NAME.sub("", part.file.stem).strip()


import_med_r1 = Importer(
    name="med-r1",
    origin="Yuxiang-Lai117/Med-R1, Splits (arXiv 2503.13939)",
    license="as published; the questions are OmniMedVQA's",
    find=_find,
    modality=_modality,
    draft=_draft,
    folders=("", "Images", "images"),
)
