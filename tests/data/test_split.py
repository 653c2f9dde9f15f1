"""Splits: counts by hand, and by hypothesis that nothing is ever in two parts."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pictures import make_folder, sample

from medvlm_r1.data.folder import folder_hash, read_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.split import Wish, clusters, parse_wish, split_folder, split_samples
from medvlm_r1.errors import UsageError, UserError


def ids(samples: list[Sample]) -> list[str]:
    return [s.id for s in samples]


def mixed() -> list[Sample]:
    """12 MRI and 4 CT questions on diagnosis, 4 MRI ones on anatomy; each of its own subject."""
    kinds = [("MRI", "diagnosis")] * 12 + [("CT", "diagnosis")] * 4 + [("MRI", "anatomy")] * 4
    return [
        sample(f"s{i:02d}", modality=modality, question_type=kind, subject=f"p{i}")
        for i, (modality, kind) in enumerate(kinds)
    ]


def strata(samples: list[Sample]) -> Counter[tuple[str, str]]:
    return Counter((s.modality, s.question_type) for s in samples)


def test_wishes() -> None:
    wishes = {"train=600": ("train", 600), "test=0.2": ("test", 0.2), "a=.25": ("a", 0.25), "b=rest": ("b", "rest")}
    assert {text: parse_wish(text) for text in wishes} == {text: Wish(*wish) for text, wish in wishes.items()}
    assert isinstance(parse_wish("train=1").size, int)
    for text in ("train", "train=", "train=0", "train=0.0", "train=1.5", "train=-3", "=4", "../x=4", "a=1e2", ".=3"):
        with pytest.raises(UsageError, match="wanted"):
            parse_wish(text)


def test_parts_have_their_share_of_every_stratum() -> None:
    split = split_samples(mixed(), [Wish("train", 10), Wish("test", 5)])
    # 10 of 20 halve 12, 4, 4; then 5 of the 10 left (6, 2, 2) halve to 3, 1, 1.
    kinds = [("MRI", "diagnosis"), ("CT", "diagnosis"), ("MRI", "anatomy")]
    assert strata(split.parts["train"]) == dict(zip(kinds, (6, 2, 2), strict=True))
    assert strata(split.parts["test"]) == strata(split.left_out) == dict(zip(kinds, (3, 1, 1), strict=True))
    # 7 of 20: quotas 4.2, 1.4, 1.4; the first of the equal remainders in order of the name is CT.
    odd = split_samples(mixed(), [Wish("train", 7)]).parts["train"]
    assert strata(odd) == dict(zip(kinds, (4, 2, 1), strict=True))
    split = split_samples(mixed()[:19], [Wish("train", 0.5), Wish("dev", 0.25), Wish("test", "rest")])
    # 9.5 and 4.75 of 19 with 4.75 for the rest: 9 + 1/2 loses to the two remainders of 3/4.
    assert {name: len(part) for name, part in split.parts.items()} == {"train": 9, "dev": 5, "test": 5}
    assert split.left_out == []
    # The seed decides, and the order of the source stays.
    draws = [ids(split_samples(mixed(), [Wish("a", 10)], seed=seed).parts["a"]) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0] == sorted(draws[0])


def test_clusters() -> None:
    samples = [
        sample("a", subject="one"),
        sample("b", subject="two"),
        sample("c", subject="two", images=("images/shared.png",)),
        sample("d", images=("images/shared.png", "images/other.png")),
        sample("e", images=("images/other.png",), subject="one"),
        sample("f"),
        sample("g", images=()),
        # A subject named like an image is not that image.
        sample("h", images=(), subject="images/f.png"),
    ]
    assert clusters(samples) == [[0, 1, 2, 3, 4], [5], [6], [7]]
    slices = [
        sample("a", subject="v1", record={"image_sources": ["v1", "v2"]}),
        sample("b", subject="p1", record={"image_sources": ["v2"]}),
        sample("c", subject="p1"),
        sample("d", subject="v2"),
        sample("e", record={"image_sources": "v2"}),
    ]
    # A subject of the volume's name may be anybody; and a user's column may have the name of the record's field.
    assert clusters(slices) == [[0, 1, 2], [3], [4]]


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ([], UsageError, "no part"),
        ([Wish("a", 3), Wish("a", 4)], UsageError, "twice"),
        ([Wish("a", "rest"), Wish("b", "rest")], UsageError, "both take the rest"),
        ([Wish("a", 21)], UserError, "21 samples or more were asked for, but there are 20"),
        ([Wish("a", 15), Wish("b", 0.5)], UserError, "there are 20"),
        ([Wish("a", 20), Wish("b", "rest")], UserError, "there are 20"),
        ([Wish("a", 0.7), Wish("b", 0.7)], UserError, "add up to 1.4"),
        ([Wish("a", 0.01), Wish("b", 0.5)], UserError, "'a' would be empty"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(wishes: list[Wish], error: type[UserError], message: str) -> None:
    with pytest.raises(error, match=message):
        split_samples(mixed(), wishes)
    with pytest.raises(UserError, match=r"'test' would be empty.*1 groups"):
        split_samples([sample(f"s{i}", subject="p") for i in range(6)], [Wish("train", 0.5), Wish("test", 0.5)])


@st.composite
def many_samples(draw: st.DrawFn) -> list[Sample]:
    modalities, kinds = st.sampled_from(["MRI", "CT"]), st.sampled_from(["", "anatomy", "diagnosis"])
    images = st.lists(st.integers(0, 30), max_size=2)
    rows = draw(st.lists(st.tuples(modalities, kinds, st.integers(0, 12), images), min_size=4, max_size=40))
    samples = []
    for i, (modality, kind, subject, numbers) in enumerate(rows):
        images = tuple(f"images/{number}.png" for number in numbers)
        subject_name = f"p{subject}" if subject else ""
        samples.append(sample(f"s{i}", modality=modality, question_type=kind, subject=subject_name, images=images))
    return samples


@settings(deadline=None, derandomize=True, max_examples=50)
@given(many_samples(), st.integers(0, 5), st.sampled_from([(0.5, 0.5), (0.6, 0.2), (2, 1), (0.3, "rest"), (1, 0.5)]))
def test_parts_are_disjoint_and_complete(samples: list[Sample], seed: int, sizes: tuple[int | float, ...]) -> None:
    wishes = [Wish("one", sizes[0]), Wish("two", sizes[1])]  # type: ignore[arg-type]
    try:
        split = split_samples(samples, wishes, seed=seed)
    except UserError as error:
        assume("would be empty" not in str(error))
        raise
    groups = [*split.parts.values(), split.left_out]
    assert sorted(s.id for group in groups for s in group) == sorted(s.id for s in samples)
    for field in ("subject", "images"):
        seen = [
            {value for s in group for value in ((s.subject,) if field == "subject" else s.images)} for group in groups
        ]
        for first_part, other in ((0, 1), (0, 2), (1, 2)):
            assert not (seen[first_part] & seen[other]) - {""}
    for name, part in split.parts.items():
        assert len(part) - split.wanted[name] < split.largest_cluster
    if split.largest_cluster == 1:
        assert {name: len(part) for name, part in split.parts.items()} == split.wanted


def test_folders_are_written_and_alike_for_the_same_arguments(tmp_path: Path) -> None:
    samples = [*mixed(), sample("absent", images=("images/absent.gif",), missing=True, split="old")]
    source = make_folder(tmp_path / "source", samples)
    wishes = [Wish("train", 12), Wish("test", "rest")]
    report = split_folder(source, tmp_path / "one", wishes, seed=3)
    split_folder(source, tmp_path / "two", wishes, seed=3)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 20 + 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    train, test = read_folder(tmp_path / "one" / "train"), read_folder(tmp_path / "one" / "test")
    assert (len(train), len(test)) == (12, 9)
    assert {s.split for s in train} == {"train"}
    assert sum(s.missing for s in (*train, *test)) == 1
    info = json.loads((tmp_path / "one" / "train" / "info.json").read_text())
    assert (info["name"], info["source"], info["counts"]["samples"]) == ("made", "by hand", 12)
    assert info["split"]["folder_hash"] == folder_hash(source)
    assert (info["split"]["seed"], info["split"]["wishes"]) == (3, ["train=12", "test=rest"])
    assert (report.parts["train"].wanted, report.parts["train"].samples) == (12, 12)
    assert (report.left_out, report.old_splits) == (0, ["old"])


def test_modalities_and_types_are_chosen_by_any_spelling(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", mixed())
    split_folder(source, tmp_path / "a", [Wish("all", 0.99)], modalities=["mr"], question_types=["ANATOMY"])
    assert ids(read_folder(tmp_path / "a" / "all")) == ["s16", "s17", "s18", "s19"]
    with pytest.raises(UserError, match="but there are 4"):
        split_folder(source, tmp_path / "b", [Wish("all", 5)], modalities=["CT"])
    with pytest.raises(UserError, match="no sample has the modality 'OCT'"):
        split_folder(source, tmp_path / "b", [Wish("all", 5)], modalities=["OCT"])
    with pytest.raises(UserError, match="both"):
        split_folder(source, tmp_path / "b", [Wish("all", 5)], modalities=["CT"], question_types=["anatomy"])
    assert not (tmp_path / "b").exists()


def test_a_data_set_is_never_overwritten_and_no_link_out_of_it_copied(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "train", mixed())
    before = folder_hash(source)
    with pytest.raises(UserError, match="holds a data set already"):
        split_folder(source, tmp_path, [Wish("test", 5), Wish("train", 5)])
    assert folder_hash(source) == before
    (tmp_path / "secret.png").write_bytes(b"secret")
    (source / "images" / "s03.png").unlink()
    (source / "images" / "s03.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="leads outside"):
        split_folder(source, tmp_path / "out", [Wish("all", "rest")])
    assert not any((tmp_path / name).exists() for name in ("test", "out"))
