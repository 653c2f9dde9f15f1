"""PathVQA as the Hugging Face hub has it: tables of `{"image": {"bytes", "path"}, "question", "answer"}`.

The pictures are micrographs and photographs of specimens, and the set does not say which is which.
"""

from pathlib import Path

from medvlm_r1.data.importing.draft import Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import UNKNOWN
from medvlm_r1.data.readers.closed import closed_options
from medvlm_r1.data.readers.fields import image, words
from medvlm_r1.data.readers.layout import absent, hub_tables


def _find(source: Path) -> Source:
    tables = hub_tables(source)
    if not tables:
        raise absent(source, ["data/train-*.parquet", "*.arrow"])
    return Source(root=source.parent if source.is_file() else source, parts=tables)


def _modality(row: Row, part: Part) -> str:
    return UNKNOWN


def _draft(row: Row, part: Part) -> Draft:
    question, given = words(row, "question"), words(row, "answer")
    options, answer = closed_options(question, given, choice=False)
    return Draft(
        question=question,
        options=options,
        answer=answer,
        images=(image(row),),
        record={"answer": given} if given != answer else {},
    )


import_path_vqa = Importer(
    name="path-vqa",
    origin="PathVQA (flaviagiammarino/path-vqa on the hub)",
    license="as published",
    find=_find,
    modality=_modality,
    draft=_draft,
)
