"""Image inputs of `MedVLM`, loaded by `medvlm_r1.data.images.load_picture`. Nothing is written to disk."""

import io
from pathlib import Path
from typing import Any

from medvlm_r1.data.images import Picture, View, load_picture
from medvlm_r1.data.images.files import InMemoryFile
from medvlm_r1.errors import UserError


def load(image: Any, view: View = View()) -> Picture:  # noqa: B008 - frozen
    """Load one image, with a note on how it was loaded.

    Args:
        image: A path; the bytes of a file; a PIL image; a numpy array (rows, columns) of uint8, uint16 or bool or
            (rows, columns, 3 or 4) of uint8; a pydicom dataset with pixels; or a `Picture`, which is returned
            unchanged.
        view: Frame, slice and window to show.

    Returns:
        The result of `medvlm_r1.data.images.load_picture`. For a PIL image or an array, the format in its note is TIFF.

    Raises:
        UserError, UsageError: See `load_picture`. Also raised if the type of `image` is not supported.
    """
    from numpy import ndarray
    from PIL.Image import Image
    from pydicom.dataset import Dataset

    match image:
        case Picture():
            return image
        case str() | Path():
            return load_picture(image, view)
        case bytes() | bytearray():
            return load_picture(InMemoryFile.of(bytes(image), "the image"), view)
        case Image():
            return load_picture(InMemoryFile.of(_tiff(image), "the image"), view)
        case ndarray():
            return load_picture(InMemoryFile.of(_tiff(_pil(image)), "the array"), view)
        case Dataset():
            return load_picture(InMemoryFile.of(_dicom(image), "dataset.dcm"), view)
    raise UserError(
        f"The image is a {type(image).__name__}; expected a path, bytes, a PIL image, a numpy array or a pydicom "
        "dataset."
    )


def _pil(array: Any) -> Any:
    from PIL import Image

    gray = array.ndim == 2 and array.dtype.name in ("uint8", "uint16", "bool")
    color = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype.name == "uint8"
    if not (gray or color) or 0 in array.shape:
        raise UserError(
            f"The array has the shape {array.shape} and dtype {array.dtype}; expected (rows, columns) of uint8 or "
            "uint16, or (rows, columns, 3) of uint8."
        )
    return Image.fromarray(array)


def _tiff(image: Any) -> bytes:
    """Encode a Pillow image of any mode as TIFF, without loss."""
    from PIL import ImageOps

    stream = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
        elif upright.mode in ("YCbCr", "HSV"):
            upright = upright.convert("RGB")
        upright.save(stream, "TIFF", exif=b"")
    # Pillow reads a lazily opened file only here, and its plug-ins may raise any exception.
    except Exception as error:
        raise UserError(f"The image is damaged or has an unsupported mode ({error}); convert it to RGB.") from error
    return stream.getvalue()


def _dicom(dataset: Any) -> bytes:
    stream = io.BytesIO()
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    known = syntax is not None or dataset.original_encoding != (None, None)
    encoding = {} if known else {"implicit_vr": True, "little_endian": True}
    try:
        dataset.save_as(stream, enforce_file_format=False, **encoding)
    except Exception as error:
        kind = type(error).__name__
        raise UserError(f"The dataset cannot be encoded ({kind}); save it as a file and pass its path.") from error
    return stream.getvalue()
