"""The blank image, a baseline without visual information."""

from PIL import Image

GREY = 128
"""Mid-gray level, halfway between black and white."""


def blank_like(image: Image.Image) -> Image.Image:
    """Make a mid-gray RGB image of the same size. It gives the same number of image tokens."""
    return Image.new("RGB", image.size, (GREY, GREY, GREY))
