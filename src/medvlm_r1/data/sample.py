"""`Sample`, the record of one question, and the rules that every usable question must meet."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from medvlm_r1.data.names import did_you_mean, folded
from medvlm_r1.data.paths import leaves_folder
from medvlm_r1.data.rows import RowFaults

LETTERS = "ABCDEFGHIJ"
MIN_OPTIONS = 2

# Special tokens of the supported model families. A tokenizer would treat them as control tokens in a user's question.
_CONTROL_TOKEN = re.compile(
    r"<\|\w+\|>|</?s>|<(?:bos|eos|pad|unk|image|video|audio|img|IMG_CONTEXT|image_soft_token|fake_token_around_image"
    r"|(?:start|end)_of_(?:image|turn)|end_of_utterance|global-img)>|</?img>|\[/?(?:INST|IMG|IMG_BREAK|IMG_END)\]"
)
_IMAGE_OPTION = re.compile(r"\s*<image \d+>\s*")
_MISSING_VALUES = ("nan", "<na>", "nat")
_TEXTS = ("id", "answer", "modality", "question_type", "subject", "split")
_TYPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("images", "options"), (tuple, "a tuple of texts")),
    "missing": (bool, "true or false"),
    **dict.fromkeys(("truth", "record"), (dict, "an object")),
    "boxes": (tuple, "a tuple of boxes"),
}


def control_token(text: str) -> str | None:
    """Find the first control token in a text, such as `<|image_pad|>` or `<image>`; None if there is none."""
    match = _CONTROL_TOKEN.search(text) if "<" in text or "[" in text else None
    return match[0] if match else None


def text_fault(name: str, value: object, *, needed: bool = True) -> str | None:
    """Describe what is wrong with a text; None if the text is usable.

    Args:
        name: Name of the text, for the message.
        value: The text.
        needed: Whether an empty text is a fault.
    """
    if not isinstance(value, str):
        return f"{name} must be text, not {value!r}"
    if needed and not is_visible(value):
        return f"{name} holds an empty text"
    if value.strip().casefold() in _MISSING_VALUES:
        return f"{name} holds {value!r}, a missing value written as text; leave it empty or give the value"
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return f"{name} holds half a character (a lone surrogate): {value!r}"
    return None


def is_visible(text: str) -> bool:
    """Whether a text has a visible character, not only white space, zero-width and control characters."""
    if text.isprintable():
        return bool(text.strip())
    return any(not character.isspace() and unicodedata.category(character)[0] != "C" for character in text)


def question_faults(question: object, options: Sequence[object]) -> list[str]:
    """List all faults of a question and its options.

    Args:
        question: The question alone, without options.
        options: Option texts without letters; empty for an open question.

    Returns:
        One phrase for each fault; empty for a usable question. Options that differ only in letter case, white space or
        a closing full stop count as repeated, because an answer could not distinguish them.
    """
    texts = [("question", question)]
    texts += [(f"option {LETTERS[i : i + 1] or i + 1}", option) for i, option in enumerate(options)]
    checked = [(name, text, text_fault(name, text)) for name, text in texts]
    faults = [fault for _, _, fault in checked if fault]
    usable = [(name, str(text)) for name, text, fault in checked if not fault]
    if 0 < len(options) < MIN_OPTIONS:
        faults.append(f"one option ({options[0]!r}); a question needs at least two, or none if it is open")
    if len(options) > len(LETTERS):
        faults.append(f"{len(options)} options; at most {len(LETTERS)} (A to J) can be lettered")
    spellings: dict[str, tuple[str, str]] = {}
    for name, option in usable:
        if name == "question":
            continue
        first, same = spellings.setdefault(folded(option), (name, option))
        if first != name:
            faults.append(f"{first} and {name} are the same ({same!r} and {option!r}); make each option different")
            break
    for name, text in usable:
        if token := control_token(text):
            faults.append(f"{name} holds the control token {token!r}, which a model would obey; remove it")
    if any(_IMAGE_OPTION.fullmatch(option) for name, option in usable if name != "question"):
        faults.append("an option is an image, not a text; such questions cannot be used")
    return faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Bounding box of a finding or structure in an image of a sample.

    Attributes:
        label: Name of the finding or structure, such as `mass` or `liver`.
        image: Index in `Sample.images`.
        x1: Left edge, in pixels of the image file; 0 is the left edge of the first column.
        y1: Upper edge.
        x2: Right edge, exclusive: the box of a single pixel has x2 = x1 + 1.
        y2: Lower edge, exclusive.
    """

    label: str
    image: int
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question with its images and its answer. All fields are checked when a sample is created.

    Attributes:
        id: Unique id in the data folder.
        images: Paths relative to the data folder, such as `images/x.png`; empty if the question has no image.
        question: The question alone, without options.
        options: Option texts without letters, two to ten, all different; empty for an open question.
        answer: Text of the correct option, or the open answer.
        modality: Imaging modality, such as `MRI`, `CT` or `X-ray`.
        question_type: One of OmniMedVQA's five question types, or empty.
        subject: Patient or volume: the cluster for statistics. Empty if unknown.
        split: Name of the split, or empty.
        missing: Whether an image file was missing at import, or the source does not name the image.
        boxes: Boxes of findings or structures, in pixels of the image files. Empty if unknown or if there is nothing.
        truth: Known facts about the images, for the audit; empty if there are none. `asks` is the attribute that the
            question asks about. `images` has one object per image, with any of `modality`, `region`, `plane`,
            `technique` and `findings`: a list of objects with `name`, `side` and `size`, empty if there is no finding.
        record: Further fields of the source. JSON values only.

    Raises:
        RowFaults: A field is of the wrong type or empty, the question breaks a rule of `question_faults`, the answer is
            not one of the options, or an image path leaves the data folder. All faults are listed.
    """

    id: str
    images: tuple[str, ...]
    question: str
    options: tuple[str, ...]
    answer: str
    modality: str
    question_type: str = ""
    subject: str = ""
    split: str = ""
    missing: bool = False
    boxes: tuple[Box, ...] = ()
    truth: dict[str, Any] = field(default_factory=dict, hash=False)
    record: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        faults = [text_fault(name, getattr(self, name), needed=name in _REQUIRED) for name in _TEXTS]
        for name, (kind, expected) in _TYPES.items():
            if not isinstance(getattr(self, name), kind):
                faults.append(f"{name} must be {expected}, not {getattr(self, name)!r}")
        if isinstance(self.options, tuple):
            faults += question_faults(self.question, self.options)
            if self.options and isinstance(self.answer, str) and self.answer not in self.options:
                faults.append(f"answer {self.answer!r} is not among the options {list(self.options)}")
        for path in self.images if isinstance(self.images, tuple) else ():
            fault = text_fault("images", path)
            if not fault and leaves_folder(path):
                fault = f"image path {path!r} leaves the data folder; give a path inside it, 'images/x.png'"
            faults.append(fault)
        faults += [_box_fault(box, len(self.images)) for box in self.boxes if isinstance(self.boxes, tuple)]
        if any(faults):
            raise RowFaults([fault for fault in faults if fault])

    @property
    def letter(self) -> str:
        """Letter of the correct option, `A` to `J`; empty for an open question."""
        return LETTERS[self.options.index(self.answer)] if self.options else ""

    @property
    def cluster(self) -> str:
        """Cluster for statistics: the subject, or the sample's own id if the subject is unknown."""
        return self.subject or self.id

    @property
    def unnamed_image(self) -> bool:
        """Whether the question needs an image that its source does not name, unlike a text-only question."""
        return self.missing and not self.images

    @property
    def image_sources(self) -> tuple[str, ...]:
        """Names, without suffix, of the volumes and multi-frame files that the sample's images were taken from."""
        names = self.record.get("image_sources")
        return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _box_fault(box: object, images: int) -> str | None:
    """Describe what is wrong with a box; None if it is usable."""
    wanted = "wanted an object with label, image, x1, y1, x2 and y2"
    if not isinstance(box, Box):
        return f"boxes holds {box!r}; {wanted}"
    if fault := text_fault("the label of a box", box.label):
        return fault
    if not isinstance(box.image, int) or isinstance(box.image, bool) or not 0 <= box.image < images:
        return f"the box of {box.label!r} is in image {box.image!r}; wanted a number from 0 to {images - 1}"
    edges = (box.x1, box.y1, box.x2, box.y2)
    numbers = all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in edges)
    if not numbers or not (0 <= box.x1 < box.x2 < math.inf and 0 <= box.y1 < box.y2 < math.inf):
        return f"the box of {box.label!r} is {list(edges)}; wanted pixels 0 <= x1 < x2 and 0 <= y1 < y2"
    return None


_REQUIRED = [f.name for f in fields(Sample) if f.default is MISSING and f.default_factory is MISSING]
_FIELDS = [f.name for f in fields(Sample)]


def sample_from_row(row: Mapping[str, Any]) -> Sample:
    """Make a sample from one decoded line of `samples.jsonl`.

    Args:
        row: JSON values by field name.

    Returns:
        The sample.

    Raises:
        RowFaults: A field is absent, unknown or of the wrong type, or `Sample` rejects the values. The message names
            the field and the value; the caller adds file and row.
    """
    faults = [f"field {name!r} is missing" for name in _REQUIRED if name not in row]
    faults += [f"unknown field {name!r}; {did_you_mean(name, _FIELDS)}" for name in row if name not in _FIELDS]
    lists = {name: row[name] for name in ("images", "options", "boxes") if name in row}
    kinds = {"boxes": "boxes"}
    faults += [
        f"{name} must be a list of {kinds.get(name, 'texts')}, not {value!r}"
        for name, value in lists.items()
        if not isinstance(value, list)
    ]
    if faults:
        raise RowFaults(faults)
    if "boxes" in lists:
        lists["boxes"] = [_box(box) for box in lists["boxes"]]
    return Sample(**{**row, **{name: tuple(values) for name, values in lists.items()}})


def _box(row: object) -> object:
    """The box of a decoded JSON object; any other value unchanged, which `Sample` refuses."""
    is_box = isinstance(row, Mapping) and row.keys() == {f.name for f in fields(Box)}
    return Box(**row) if is_box else row  # type: ignore[arg-type]


def row_from_sample(sample: Sample) -> dict[str, Any]:
    """Convert a sample to a dictionary for JSON; the inverse of `sample_from_row`."""
    return {name: getattr(sample, name) for name in _FIELDS} | {"boxes": [asdict(box) for box in sample.boxes]}
