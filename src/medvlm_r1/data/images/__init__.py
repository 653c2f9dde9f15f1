"""The image loader: turns an image file or a slice of a volume into an 8-bit RGB picture, and records how."""

from medvlm_r1.data.images.load import is_medical, load_image, load_picture
from medvlm_r1.data.images.picture import ImageNote, Picture, View, Window

__all__ = ["ImageNote", "Picture", "View", "Window", "is_medical", "load_image", "load_picture"]
