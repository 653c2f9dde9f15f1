"""The table of real images, and the pipeline on images of pydicom's wheel. Nothing is downloaded."""

import io
import json
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import real_images
from benchmarks.package_files import CLIENTS, Package, find_files
from benchmarks.real_images import (
    NOTHING,
    QUESTIONS,
    Entry,
    collect,
    main,
    measure,
    read_table,
    result_lines,
)
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import View
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.models.load import PHANTOM_BASE
from medvlm_r1.phantom.scene import MODALITIES, REGIONS

PAGE = Path(__file__).parents[2] / "docs/explanation/real-images.md"
MOST = 6
"""Images of one subject, so that none dominates."""


def entry(file, modality, region, subject):
    path = f"pydicom/data/test_files/{file}"
    where = {"package": "pydicom", "version": version("pydicom"), "source": "wheel", "file": path}
    view = dict.fromkeys(("plane", "slice", "frame", "window"), "")
    return Entry(**where, **view, subject=subject, modality=modality, region=region, label="header")


SHIPPED = [
    entry("examples_overlay.dcm", "MRI", "abdomen", "a"),
    entry("J2K_pixelrep_mismatch.dcm", "CT", "head", "b"),
    entry("CT_small.dcm", "CT", "", "c"),
]


class TestTable:
    def test_it_is_large_enough_and_no_subject_dominates(self):
        rows = read_table()
        images = Counter(row.subject for row in rows)
        assert len(rows) >= 40
        assert len(images) >= 15
        assert max(images.values()) <= MOST
        assert len({(row.origin, row.file, row.view) for row in rows}) == len(rows)

    def test_its_values_are_of_the_vocabulary(self):
        for row in read_table():
            assert row.modality in MODALITIES
            assert row.region in ("", *REGIONS)
            assert row.source in CLIENTS
            assert row.label
            assert row.subject
            assert isinstance(row.view, View)
            assert not PurePosixPath(row.file).is_absolute()
            assert ".." not in PurePosixPath(row.file).parts

    def test_a_package_has_one_version_and_a_subject_one_package_and_modality(self):
        rows = read_table()
        assert len({row.package for row in rows}) == len({row.origin for row in rows})
        assert len({row.subject for row in rows}) == len({(row.subject, row.package, row.modality) for row in rows})

    def test_the_page_names_every_package_and_the_counts(self):
        rows, page = read_table(), PAGE.read_text(encoding="utf-8")
        assert f"{len(rows)} images of {len({row.subject for row in rows})} subjects" in page
        groups = [[row for row in rows if row.modality == name] for name in MODALITIES]
        groups += [[row for row in rows if row.region == name] for name in ("head", "chest", "abdomen", "")]
        assert "| images | " + " | ".join(str(len(group)) for group in groups) + " |" in page
        assert "| subjects | " + " | ".join(str(len({row.subject for row in group})) for group in groups) + " |" in page
        assert {row.package for row in rows if f"{row.package} {row.version.split('+')[0][:3]}" not in page} == set()
        assert "no clinical result" in page
        assert "trained on computed images" in page


class TestPipeline:
    def test_shipped_images_are_asked_about_and_described(self, tmp_path, monkeypatch):
        monkeypatch.setattr(real_images, "read_table", lambda: SHIPPED)
        app = typer.Typer()
        app.command()(main)
        result = CliRunner().invoke(app, ["--out", str(tmp_path), "--json"], catch_exceptions=False)
        figures = json.loads(result.stdout.splitlines()[-1])
        assert figures["research_use"] == RESEARCH_USE
        assert (figures["images"], figures["subjects"]) == (3, 3)
        assert len(figures["texts"]) == 3
        modality, region = (figures["attributes"][name] for name in ("modality", "region"))
        for side in (modality["answers"], modality["descriptions"]):
            assert [side["accuracy"][name]["n"] for name in ("all", "MRI", "CT")] == [3, 1, 2]
            assert sum(sum(row.values()) for row in side["confusion"].values()) == 3
        assert modality["chance"] == pytest.approx(100 / 3)
        assert region["answers"]["accuracy"]["all"]["n"] == 2
        assert region["chance"] == 50
        text = "\n".join(result_lines(figures))
        assert "No clinical result." in text
        assert "| unweighted mean |" in text
        assert (tmp_path / "sheet.png").is_file()

    def test_questions_of_a_data_folder(self, tmp_path):
        files = find_files([(row.origin, row.file) for row in SHIPPED], tmp_path / "packages")
        samples = collect(SHIPPED, files, tmp_path / "data")
        assert samples == read_folder(tmp_path / "data")
        assert [(s.id, s.answer, s.subject) for s in samples] == [
            ("000-modality", "MRI", "a"),
            ("000-region", "abdomen", "a"),
            ("001-modality", "CT", "b"),
            ("001-region", "head", "b"),
            ("002-modality", "CT", "c"),
        ]
        assert all(set(s.options) == set(MODALITIES) for s in samples if s.id.endswith("modality"))
        assert samples[0].question == QUESTIONS["modality"][1]
        assert samples == collect(SHIPPED, files, tmp_path / "data")
        orders = {collect(SHIPPED, files, tmp_path / f"{seed}", seed=seed)[0].options for seed in range(8)}
        assert len(orders) > 1

    def test_counts_of_a_scripted_model(self, tmp_path, monkeypatch):
        files = find_files([(row.origin, row.file) for row in SHIPPED], tmp_path / "packages")
        samples = collect(SHIPPED, files, tmp_path / "data")
        texts = ["Axial T2-weighted MRI of the abdomen.", "X-ray of the knee, no CT.", "I answer is B."]
        described = dict(zip(dict.fromkeys(s.images[0] for s in samples), texts, strict=True))
        monkeypatch.setattr(real_images, "_describe", lambda *_: described)
        figures = measure(PHANTOM_BASE, samples, tmp_path / "data", tmp_path / "run")
        modality, region = (figures["attributes"][name]["descriptions"] for name in ("modality", "region"))
        assert modality["confusion"] == {"MRI": {"MRI": 1}, "CT": {"X-ray": 1, NOTHING: 1}}
        assert modality["accuracy"]["all"]["correct"] == 1
        assert modality["mean"]["percent"] == 50
        assert region["confusion"] == {"head": {"knee": 1}, "abdomen": {"abdomen": 1}}


class TestPackages:
    def test_missing_packages_are_named_with_their_commands(self, tmp_path):
        names = {"wheel": "w", "sdist": "s", "apt": "a", "npm": "n"}
        wanted = [(Package(source, f"no-such-{name}", "1.0"), "x.png") for source, name in names.items()]
        with pytest.raises(UserError, match="4 packages are missing") as error:
            find_files(wanted, tmp_path)
        for line in ("no-such-w==1.0", "apt-get download no-such-a=1.0", "npm pack no-such-n@1.0", "no-such-s==1.0"):
            assert line in str(error.value)

    @pytest.mark.parametrize(
        ("source", "archive", "top"),
        [
            ("wheel", "a_b-1.0-py3-none-any.whl", ""),
            ("sdist", "a-b-1.0.tar.gz", "a-b-1.0/"),
            ("npm", "a-b-1.0.tgz", "package/"),
        ],
    )
    def test_only_the_wanted_file_is_taken_out(self, tmp_path, source, archive, top):
        content = {f"{top}data/x.png": b"picture", f"{top}setup.py": b"raise SystemExit", "../outside": b"no"}
        if archive.endswith(".whl"):
            with zipfile.ZipFile(tmp_path / archive, "w") as packed:
                for name, data in content.items():
                    packed.writestr(name, data)
        else:
            with tarfile.open(tmp_path / archive, "w:gz") as packed:
                for name, data in content.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    packed.addfile(member, io.BytesIO(data))
        package = Package(source, "a-b", "1.0")
        [file] = find_files([(package, "data/x.png")], tmp_path)
        assert file.read_bytes() == b"picture"
        assert [path for path in (tmp_path / "a-b-1.0").rglob("*") if path.is_file()] == [file]
        with pytest.raises(UserError, match=r"has no data/y\.png"):
            find_files([(package, "data/y.png")], tmp_path)

    def test_another_version_is_not_used(self, tmp_path):
        other = replace(SHIPPED[0], version="0.1")
        with pytest.raises(UserError, match=r"pydicom==0\.1"):
            find_files([(other.origin, other.file)], tmp_path)
