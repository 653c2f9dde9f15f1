"""Image loader: convert an image file or a slice of a volume to an 8-bit RGB picture, with a note on the conversion."""

from medvlm_r1.data.images.load import is_medical, load_image, load_picture
from medvlm_r1.data.images.picture import ImageNote, Picture, View, Window

__all__ = ["ImageNote", "Picture", "View", "Window", "is_medical", "load_image", "load_picture"]
