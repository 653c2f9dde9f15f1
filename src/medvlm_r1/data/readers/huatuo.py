"""The multiple-choice collection that HuatuoGPT-Vision published and MedVLM-R1 was trained and tested on.

One JSON array of `{"question", "image": ["images/x.png"], "options", "answer", "dataset", "subset"}`; the 900 test
questions that MedVLM-R1 (arXiv 2502.19634) released are rows of it with `problem` and `solution` (the letter) added.
"""

from pathlib import Path

from medvlm_r1.data.importing.draft import Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import known_modality, modality_name
from medvlm_r1.data.readers.fields import kept, text, texts
from medvlm_r1.data.readers.layout import one_file
from medvlm_r1.data.sample import LETTERS


def _find(source: Path) -> Source:
    return one_file(source, "medical_multimodel_evaluation_data.json", "MRI_CT_XRAY_300each_dataset.json")


def _modality(row: Row, part: Part) -> str | None:
    subset = text(row, "subset")
    # Only OmniMedVQA writes a modality into `subset`: elsewhere it is empty or the name of a part.
    foreign = not subset.strip() or row.get("dataset", "OmniMedVQA") != "OmniMedVQA"
    return modality_name(subset) if foreign else known_modality(subset, "subset")


def _draft(row: Row, part: Part) -> Draft:
    question, images = text(row, "question"), texts(row, "image")
    options, answer = texts(row, "options"), text(row, "answer")
    if "solution" in row and answer in options:
        letter = LETTERS[options.index(answer) : options.index(answer) + 1]
        if row["solution"] != letter:
            raise ValueError(f"solution {row['solution']!r} contradicts the answer, which is option {letter!r}")
    return Draft(
        question=question, images=images, options=options, answer=answer, record=kept(row, "dataset", "subset")
    )


import_huatuo = Importer(
    name="huatuo",
    origin="FreedomIntelligence/Medical_Multimodal_Evaluation_Data",
    license="Apache-2.0",
    find=_find,
    modality=_modality,
    draft=_draft,
)
