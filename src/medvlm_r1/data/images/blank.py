"""The blank image, a baseline without visual information."""

from PIL import Image

GREY = 128
"""Half way between black and white, so that neither brightness nor darkness is shown."""


def blank_like(image: Image.Image) -> Image.Image:
    """Make a mid-gray RGB image of the same size, which gives the same number of image tokens."""
    return Image.new("RGB", image.size, (GREY, GREY, GREY))
