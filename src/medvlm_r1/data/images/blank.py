"""The image that shows nothing."""

from PIL import Image

GREY = 128
"""Half way between black and white, so that neither brightness nor darkness is shown."""


def blank_like(image: Image.Image) -> Image.Image:
    """A mid-grey RGB image of the same width and height: a model gets as many image tokens for it as for the other."""
    return Image.new("RGB", image.size, (GREY, GREY, GREY))
