"""Fingerprints by hand-made copies; the search for near hashes against comparing each with each."""

from itertools import combinations

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import as_jpeg, brighter, cropped, picture
from PIL import Image

from medvlm_r1.data.check.pictures import fingerprint, near_pairs


def bits(a: Image.Image, b: Image.Image) -> int:
    first, other = (fingerprint(image.convert("RGB")).hashes[0] for image in (a, b))
    return (first ^ other).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_a_changed_copy_is_near_and_not_the_same(seed: int) -> None:
    original = picture(seed)
    larger = original.resize((400, 400), Image.Resampling.BICUBIC)
    for copy in (brighter(original), cropped(original), as_jpeg(original), larger):
        assert bits(original, copy) <= 4
        assert fingerprint(copy.convert("RGB")).pixels != fingerprint(original.convert("RGB")).pixels


def test_fingerprints() -> None:
    assert min(bits(picture(a), picture(b)) for a, b in combinations(range(8), 2)) > 10
    image = picture(3).convert("RGB")
    assert f"{fingerprint(image).hashes[0]:016x}" == str(imagehash.phash(image))
    # Pixels are hashed with their shape.
    pixels = bytes(range(48))
    wide, tall = Image.frombytes("RGB", (8, 2), pixels), Image.frombytes("RGB", (2, 8), pixels)
    one_level = Image.frombytes("RGB", (8, 2), bytes([1, *pixels[1:]]))
    assert len({fingerprint(image).pixels for image in (wide, wide.copy(), tall, one_level)}) == 3
    # Flat pictures have no perceptual hash.
    black, faint = Image.new("RGB", (50, 40)), Image.new("RGB", (50, 40), (9, 9, 9))
    faint.putpixel((3, 3), (11, 9, 9))
    assert [(fingerprint(x).hashes, fingerprint(x).blank) for x in (black, faint)] == [((), True), ((), False)]


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 2**64 - 1) | st.integers(0, 15)] * 2), max_size=25), st.integers(0, 16))
def test_near_pairs_are_found_once_each(numbers: list[tuple[int, int]], distance: int) -> None:
    hashes = np.array(numbers, dtype=np.uint64).reshape(-1, 2).T
    expected = []
    for a, b in combinations(range(len(numbers)), 2):
        distances = [(numbers[a][0] ^ number).bit_count() for number in numbers[b]]
        near = [(bits, a, b, flip) for flip, bits in enumerate(distances) if bits <= distance]
        expected += near[:1]
    calls: list[tuple[int, int]] = []
    assert list(near_pairs(hashes, distance, lambda *done: calls.append(done))) == expected
    assert calls == [(number, len(numbers)) for number in range(1, len(numbers) + 1)]
