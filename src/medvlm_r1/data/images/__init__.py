"""The one image loader: an image file or a slice of a volume to an 8-bit RGB picture, and a note of what was done."""

from medvlm_r1.data.images.load import is_medical, load_image, load_picture
from medvlm_r1.data.images.picture import ImageNote, Picture, View, Window

__all__ = ["ImageNote", "Picture", "View", "Window", "is_medical", "load_image", "load_picture"]
