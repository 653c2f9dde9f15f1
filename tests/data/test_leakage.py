"""Fingerprints by hand-made copies; the search for near hashes against comparing each with each."""

import io
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture
from PIL import Image

from medvlm_r1.data.leakage import Hashes, fingerprint, near_pairs
from medvlm_r1.errors import UsageError


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=60)
    return Image.open(buffer)


def bits(a: Image.Image, b: Image.Image) -> int:
    first, other = fingerprint(a.convert("RGB")).near, fingerprint(b.convert("RGB")).near
    assert first is not None
    assert other is not None
    return (first ^ other).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_a_worked_over_copy_is_near_and_not_the_same(seed: int) -> None:
    original = picture(seed)
    copies = {
        "brighter": original.point(lambda value: min(255, value + 12)),
        "cropped": original.crop((1, 1, 159, 159)),
        "jpeg": jpeg(original),
        "larger": original.resize((400, 400), Image.Resampling.BICUBIC),
    }
    for name, copy in copies.items():
        assert bits(original, copy) <= 4, name
        assert fingerprint(copy.convert("RGB")).pixels != fingerprint(original.convert("RGB")).pixels


def test_other_pictures_are_not_near() -> None:
    assert min(bits(picture(a), picture(b)) for a, b in combinations(range(8), 2)) > 10


def test_pixels_are_hashed_with_their_shape() -> None:
    pixels = bytes(range(48))
    wide, tall = Image.frombytes("RGB", (8, 2), pixels), Image.frombytes("RGB", (2, 8), pixels)
    assert fingerprint(wide).pixels != fingerprint(tall).pixels
    assert fingerprint(wide) == fingerprint(wide.copy())
    one_level = Image.frombytes("RGB", (8, 2), bytes([1, *pixels[1:]]))
    assert fingerprint(wide).pixels != fingerprint(one_level).pixels


def test_the_hash_is_imagehashs_own() -> None:
    import imagehash

    image = picture(3).convert("RGB")
    assert f"{fingerprint(image).near:016x}" == str(imagehash.phash(image))


def test_flat_pictures_have_no_perceptual_hash() -> None:
    black = fingerprint(Image.new("RGB", (50, 40)))
    assert (black.near, black.blank) == (None, True)
    faint = Image.new("RGB", (50, 40), (9, 9, 9))
    faint.putpixel((3, 3), (11, 9, 9))
    assert (fingerprint(faint).near, fingerprint(faint).blank) == (None, False)


def all_near_pairs(hashes: Hashes, distance: int) -> list[tuple[int, int, int]]:
    rows = [np.stack([a, b, bits], axis=1).tolist() for a, b, bits in near_pairs(hashes, distance)]
    return [tuple(row) for block in rows for row in block]


def each_with_each(hashes: Hashes, distance: int) -> list[tuple[int, int, int]]:
    numbers = [int(number) for number in hashes]
    all_pairs = ((i, j, (numbers[i] ^ numbers[j]).bit_count()) for i, j in combinations(range(len(numbers)), 2))
    return [pair for pair in all_pairs if pair[2] <= distance]


@pytest.mark.parametrize("distance", [0, 1, 4, 7, 16])
def test_the_search_finds_what_brute_force_finds_once_each(distance: int) -> None:
    rng = np.random.default_rng(distance)
    share = 0.01 + 0.004 * distance
    # Clusters around few centers, so that there are many pairs of every distance.
    centres = rng.integers(0, 2**63, 12, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    flips = (rng.random((300, 64)) < share) @ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    hashes = centres[rng.integers(0, 12, 300)] ^ flips.astype(np.uint64)
    expected = each_with_each(hashes, distance)
    assert len(expected) > 50
    assert sorted(all_near_pairs(hashes, distance)) == sorted(expected)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 15), max_size=25), st.integers(0, 16))
def test_any_hashes(numbers: list[int], distance: int) -> None:
    hashes = np.array(numbers, dtype=np.uint64)
    assert sorted(all_near_pairs(hashes, distance)) == sorted(each_with_each(hashes, distance))


@pytest.mark.parametrize("distance", [-1, 17])
def test_a_senseless_distance_is_refused(distance: int) -> None:
    with pytest.raises(UsageError, match="0 to 16"):
        list(near_pairs(np.zeros(2, dtype=np.uint64), distance))
