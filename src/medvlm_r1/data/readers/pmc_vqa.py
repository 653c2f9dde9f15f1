"""PMC-VQA (arXiv 2305.10415): CSV files and the figures of papers they ask about.

The second version has the columns `index, Figure_path, Caption, Question, Choice A, ..., Choice D, Answer, split`, the
first `Figure_path, Question, Answer, Choice A, ..., Choice D, Answer_label`. The choices carry their letter
(` A:text `); the answer is a letter in one and a text in the other. No column names the modality.
"""

from pathlib import Path

from medvlm_r1.data.importing.draft import Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import UNKNOWN
from medvlm_r1.data.readers.fields import kept, words
from medvlm_r1.data.readers.layout import absent, parts_of
from medvlm_r1.data.readers.lettered import lettered_columns, right_option, without_letter
from medvlm_r1.data.sample import LETTERS

_VERSIONS = (("train_2.csv", "test_2.csv"), ("train.csv", "test.csv"))


def _find(source: Path) -> Source:
    if source.is_file():
        return Source(root=source.parent, parts=parts_of([source], source.parent))
    for names in _VERSIONS:
        files = [source / name for name in names if (source / name).is_file()]
        if files:
            return Source(root=source, parts=parts_of(files, source))
    raise absent(source, [name for names in _VERSIONS for name in names])


def _modality(row: Row, part: Part) -> str:
    return UNKNOWN


def _draft(row: Row, part: Part) -> Draft:
    choices = lettered_columns(row, "Choice {}")
    options = tuple(without_letter(choice, letter) for letter, choice in zip(LETTERS, choices, strict=False))
    first_version = "Answer_label" in row
    answer = right_option(words(row, "Answer_label" if first_version else "Answer"), options, letter_first=True)
    if first_version and right_option(words(row, "Answer"), options) != answer:
        raise ValueError(f"Answer {row['Answer']!r} is not option {row['Answer_label']!r}, which Answer_label names")
    return Draft(
        question=words(row, "Question"),
        options=options,
        answer=answer,
        images=(words(row, "Figure_path"),),
        split=str(row.get("split", "")).strip(),
        record=kept(row, "index", "Caption"),
    )


import_pmc_vqa = Importer(
    name="pmc-vqa",
    origin="PMC-VQA (RadGenome/PMC-VQA on the hub; arXiv 2305.10415)",
    license="as published",
    find=_find,
    modality=_modality,
    draft=_draft,
    folders=("figures", "images", "images_2", ""),
)
