"""Readers of published data sets.

Data sets with options: HuatuoGPT-Vision, Med-R1, OmniMedVQA and PMC-VQA.

**huatuo** is the data set on which MedVLM-R1 was trained and tested. It is one JSON array of `{"question", "image":
["images/x.png"], "options", "answer", "dataset", "subset"}`. The 900 test questions that MedVLM-R1 (arXiv 2502.19634)
released are rows of this array with two more fields: `problem` and `solution` (the letter).

**med-r1** (arXiv 2503.13939) consists of splits of OmniMedVQA: `Splits/modality/{train,test}/*.json` and
`Splits/question_type/{train,test}/*.json`. Each file is an array of `{"image", "problem", "solution"}`. The problem
contains the question and its lettered options. The solution has the form `<answer> B </answer>`. The file name gives
the modality or the question type.

**omnimedvqa** (arXiv 2402.09181) is the folder as distributed. `QA_information/Open-access/*.json` and
`Restricted-access/*.json` are arrays of `{"dataset", "question_id", "question_type", "question", "gt_answer",
"image_path", "option_A", ..., "option_D", "modality_type"}`; one row has `modality` instead of `modality_type`. The
images of the restricted part are not distributed. Its samples have `missing` set until the files are added.

**pmc-vqa** (arXiv 2305.10415) consists of CSV files and figures of papers. The first version has the columns
`Figure_path, Question, Answer, Choice A, ..., Choice D, Answer_label`. The second has `index, Figure_path, Caption,
Question, Choice A, ..., Choice D, Answer, split`. The choices start with their letter (` A:text `). `Answer` is a text
in the first version and a letter in the second. No column names the modality.

Data sets with written answers: SLAKE, VQA-RAD and PathVQA.

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

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvlm_r1.data.importing.draft import Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import UNKNOWN, known_modality, modality_name
from medvlm_r1.data.readers import fields
from medvlm_r1.data.readers.closed import closed_options
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.disk import read_table

_RESTRICTED = "Restricted-access"
_BY_TYPE = "question_type"
_SPLIT_IN_NAME = re.compile(r"[ _-]*(train|test)$|^(train|test)[ _-]*", re.IGNORECASE)


def _huatuo_modality(row: Row, part: Part) -> str | None:
    subset = fields.text(row, "subset")
    # Only OmniMedVQA rows have a modality in `subset`. In other rows it is empty or the name of a subset.
    foreign = not subset.strip() or row.get("dataset", "OmniMedVQA") != "OmniMedVQA"
    return modality_name(subset) if foreign else known_modality(subset, "subset")


def _huatuo_draft(row: Row, part: Part) -> Draft:
    draft = Draft(
        question=fields.text(row, "question"),
        images=fields.texts(row, "image"),
        options=fields.texts(row, "options"),
        answer=fields.text(row, "answer"),
        record=fields.present_fields(row, "dataset", "subset"),
    )
    if "solution" in row and draft.answer in draft.options:
        letter = LETTERS[draft.options.index(draft.answer)]
        if row["solution"] != letter:
            raise ValueError(f"solution {row['solution']!r} contradicts the answer, which is option {letter!r}")
    return draft


def _find_med_r1(source: Path) -> Source:
    # The split by modality is used, because the split by question type contains the same rows again.
    names = ("*.json",) if source.name in ("train", "test") else ("train/*.json", "test/*.json")
    files = fields.find_files(source, ("Splits/modality", "modality"), names)
    root = next((up.parent for up in (source, *source.parents) if up.name == "Splits"), files.root)
    return replace(files, root=root)


def _med_r1_modality(row: Row, part: Part) -> str:
    if _BY_TYPE in part.file.parts:
        return UNKNOWN
    return known_modality(_topic(part), f"the file name {part.file.name}")


def _med_r1_draft(row: Row, part: Part) -> Draft:
    question, options = fields.split_problem(fields.text(row, "problem"))
    return Draft(
        question=question,
        options=options,
        answer=fields.right_option(fields.tagged_answer(fields.text(row, "solution")), options, letter_first=True),
        images=(fields.as_image(fields.needed(row, "image"), "image"),),
        question_type=_topic(part) if _BY_TYPE in part.file.parts else "",
    )


def _topic(part: Part) -> str:
    return _SPLIT_IN_NAME.sub("", part.file.stem).strip()


def _find_omnimedvqa(source: Path) -> Source:
    files = fields.find_files(source, ("QA_information",), ("Open-access/*.json", f"{_RESTRICTED}/*.json"))
    # If the source is a file or subfolder of the data set, the images of the whole data set are used.
    return replace(files, root=next((up for up in (source, *source.parents) if (up / "Images").is_dir()), files.root))


def _omnimedvqa_modality(row: Row, part: Part) -> str:
    column = "modality" if "modality_type" not in row and "modality" in row else "modality_type"
    return known_modality(fields.text(row, column), column)


def _omnimedvqa_draft(row: Row, part: Part) -> Draft:
    options = fields.lettered_columns(row, "option_{}")
    restricted = part.file.parent.name == _RESTRICTED
    pictured = not restricted or bool(row.get("image_path"))
    access = "restricted" if restricted else "open"
    fields.needed(row, "dataset")
    return Draft(
        question=fields.words(row, "question"),
        options=options,
        answer=fields.right_option(fields.words(row, "gt_answer"), options),
        images=(fields.text(row, "image_path"),) if pictured else (),
        missing=not pictured,
        question_type=fields.words(row, "question_type"),
        record=fields.present_fields(row, "dataset", "question_id") | {"access": access},
    )


def _pmc_vqa_draft(row: Row, part: Part) -> Draft:
    choices = fields.lettered_columns(row, "Choice {}")
    options = tuple(fields.without_letter(choice, letter) for letter, choice in zip(LETTERS, choices, strict=False))
    first_version = "Answer_label" in row
    letter = fields.words(row, "Answer_label" if first_version else "Answer")
    answer = fields.right_option(letter, options, letter_first=True)
    if first_version and fields.right_option(fields.words(row, "Answer"), options) != answer:
        raise ValueError(f"Answer {row['Answer']!r} is not option {row['Answer_label']!r}, which Answer_label names")
    return Draft(
        question=fields.words(row, "Question"),
        options=options,
        answer=answer,
        images=(fields.words(row, "Figure_path"),),
        split=str(row.get("split", "")).strip(),
        record=fields.present_fields(row, "index", "Caption"),
    )


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


def _slake_modality(row: Row, part: Part) -> str:
    return known_modality(fields.text(row, "modality"), "modality")


def _slake_draft(row: Row, part: Part) -> Draft:
    language = fields.only(row, "q_lang", ("EN", "ZH")).lower()
    record = {"language": language} | fields.present_fields(row, *_SLAKE_FIELDS)
    return _draft(row, fields.text(row, "img_name"), record, closed=_is_closed(row))


def _hub_draft(row: Row, part: Part) -> Draft:
    image = fields.as_image(fields.needed(row, "image"), "image")
    return _draft(row, image, fields.present_fields(row, *_VQA_RAD_FIELDS))


def _vqa_rad_draft(row: Row, part: Part) -> Draft:
    if "image_name" not in row:
        return _hub_draft(row, part)
    is_test = str(row.get("phrase_type", "")).strip().lower().startswith("test")
    split = "test" if is_test else "train"
    record = fields.present_fields(row, *_VQA_RAD_FIELDS)
    return _draft(row, fields.text(row, "image_name"), record, closed=_is_closed(row), split=split)


def _find_huatuo(source: Path) -> Source:
    return fields.one_file(source, "medical_multimodel_evaluation_data.json", "MRI_CT_XRAY_300each_dataset.json")


def _find_pmc_vqa(source: Path) -> Source:
    return fields.find_files(source, (), ("train_2.csv", "test_2.csv"), ("train.csv", "test.csv"))


def _find_vqa_rad(source: Path) -> Source:
    return fields.find_tables(source) or fields.one_file(source, "VQA_RAD Dataset Public.json")


def _find_slake(source: Path) -> Source:
    return fields.find_files(source, (), ("train.json", "validation.json", "validate.json", "test.json"))


def _find_path_vqa(source: Path) -> Source:
    return fields.find_tables(source) or fields.no_source(source, "data/train-*.parquet", "*.arrow")


_FACTS = {name: facts for name, *facts in read_table(Path(__file__).with_name("published.tsv"))}


def _published(
    name: str,
    find: Callable[[Path], Source],
    draft: Callable[[Row, Part], Draft],
    modality: Callable[[Row, Part], str | None] = lambda row, part: UNKNOWN,
) -> Importer:
    """The importer of a published data set. `published.tsv` has its origin, its license and its folders of images."""
    origin, terms, folders = _FACTS[name]
    folder_names = tuple(folders.split("|"))
    return Importer(
        name=name, origin=origin, license=terms, folders=folder_names, find=find, draft=draft, modality=modality
    )


PUBLIC_READERS = (
    _published("huatuo", _find_huatuo, _huatuo_draft, _huatuo_modality),
    _published("omnimedvqa", _find_omnimedvqa, _omnimedvqa_draft, _omnimedvqa_modality),
    _published("med-r1", _find_med_r1, _med_r1_draft, _med_r1_modality),
    _published("pmc-vqa", _find_pmc_vqa, _pmc_vqa_draft),
    _published("vqa-rad", _find_vqa_rad, _vqa_rad_draft),
    _published("slake", _find_slake, _slake_draft, _slake_modality),
    _published("path-vqa", _find_path_vqa, _hub_draft),
)
