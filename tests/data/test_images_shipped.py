"""Every file that pydicom, pydicom-data and nibabel ship, against a reference made of their own functions.

The reference knows the rules of `docs/reference/images.md` and nothing of the loader's code.
"""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import data_store
import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel.minc1 import Minc1Image
from nibabel.spatialimages import SpatialImage
from PIL import Image
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from medvlm_r1.data.images import View, load_picture
from medvlm_r1.errors import UserError

SHIPPED = {
    "pydicom": Path(pydicom.__file__).parent / "data",
    "pydicom-data": Path(data_store.__file__).parent / "data",
    "nibabel": Path(nib.__file__).parent / "tests/data",
}
FILES = [
    (package, path.relative_to(root).as_posix())
    for package, root in SHIPPED.items()
    for path in sorted(root.rglob("*"))
    if path.is_file() and path.suffix not in (".py", ".pyc")
]
VOLUMES = (".nii", ".nii.gz", ".mgz", ".mnc", ".HEAD", ".BRIK", ".BRIK.gz", ".PAR", ".REC")
IMAGES_PAGE = Path(__file__).parents[2] / "docs/reference/images.md"

# Shown, but not as pydicom's functions show them; the page says what is shown instead.
DIFFERS = [
    "test_files/dicomdirtests/77654033/CT2/17166",
    "test_files/dicomdirtests/77654033/CT2/17196",
    "OBXXXX1A_expb.dcm",
    "OBXXXX1A_expb_2frame.dcm",
]
# Refused, though nibabel reads it: ECAT. MINC 2 needs h5py, which is not installed.
READABLE = ["tinypet.v"]
# Reason, by a part of the message, and how many files are refused for it.
REFUSED = {
    # Of DICOM files. pydicom cannot decode the pixels of the last four either.
    "a DICOM file without an image": 84,
    "a DICOM file of which no element of an image can be read": 3,
    "the DICOM header is damaged": 1,
    "its pixels (JPEG Extended (Process 2 and 4)) are damaged": 1,
    "the compressed frame is 3722445056 x 1024 pixels and the header says 256 x 1024": 1,
    "its pixels are cut short": 1,
    # Of volumes: headers without the file of their voxels, damaged ones, a matrix of connections, formats not read.
    "the other file of the volume": 31,
    "the PAR/REC header is damaged": 2,
    "a volume of 6 dimensions": 1,
    "the header of a .hdr/.img pair": 2,
    "the header of an Analyze volume": 1,
    "an HDF5 or MINC 2 file": 6,
    # Of texts, tracks and profiles.
    "plain text": 16,
    "not a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image; convert it to PNG": 16,
}


def dicom_views(path):
    """Some frames of a file, and the 8-bit picture of each. An exception means that pydicom has no pixels for it."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        ds = pydicom.dcmread(file, force=True)
        file.seek(0)
        header = pydicom.dcmread(file, force=True, stop_before_pixels=True)
    if "TransferSyntaxUID" not in ds.file_meta:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    # pydicom takes GDCM where it is installed, whose lossy JPEG differs by a step or two.
    syntax = ds.file_meta.TransferSyntaxUID
    plugin = "pylibjpeg" if syntax.is_encapsulated and syntax != RLELossless else ""
    header.file_meta = ds.file_meta
    # A data set whose pixels have no end is empty; pydicom reads them from the file alone.
    source = ds if any(keyword in ds for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")) else path
    for frame in some(int(header.get("NumberOfFrames") or 1)):
        pixels = pixel_array(source, index=frame, decoding_plugin=plugin)
        yield View(frame=frame), dicom_picture(header, pixels, frame)


def dicom_picture(ds, pixels, frame):
    colour = ds.PhotometricInterpretation
    if colour == "PALETTE COLOR":
        return to_8_bits(apply_color_lut(pixels, ds), 0, 2**16 - 1)
    if ds.SamplesPerPixel == 3:
        return to_8_bits(pixels, 0, 2**ds.BitsStored - 1)
    elements = with_groups(ds, frame)
    values = apply_modality_lut(pixels, elements)
    low, high = output_range(elements)
    if "VOILUTSequence" in elements:
        grey = to_8_bits(apply_voi_lut(values, elements), 0, 2 ** elements.VOILUTSequence[0].LUTDescriptor[2] - 1)
    elif "WindowCenter" in elements:
        grey = to_8_bits(apply_voi_lut(values, elements), low, high)
    elif ds.get("Modality") == "CT" and "RescaleSlope" in elements and low < 0:
        elements.WindowCenter, elements.WindowWidth = 40, 400
        grey = to_8_bits(apply_voi_lut(values, elements), low, high)
    elif ds.BitsStored <= 8 and ds.get("Modality") != "MR":
        grey = to_8_bits(values, 0, 2**ds.BitsStored - 1)
    else:
        low, high = np.percentile(values, [1, 99], method="inverted_cdf")
        grey = to_8_bits(np.clip(values, low, high), low, high)
    return 255 - grey if colour == "MONOCHROME1" else grey


def with_groups(ds, frame):
    """The elements, those of the frame's functional groups among them."""
    elements = pydicom.Dataset(ds)
    elements.file_meta = ds.file_meta
    shared = ds.get("SharedFunctionalGroupsSequence", [])[:1]
    own = ds.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1]
    for group in (*shared, *own):
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(keyword, []):
                elements.update(item)
    return elements


def output_range(ds):
    bits = ds.BitsStored
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if ds.PixelRepresentation else [0, 2**bits - 1])
    return ends * ds.get("RescaleSlope", 1) + ds.get("RescaleIntercept", 0)


def to_8_bits(values, low, high):
    return np.floor((values.astype(float) - low) / (high - low) * 255 + 0.5 + 1e-9).astype(np.uint8)


def canonical(path):
    """The volume in nibabel's canonical orientation; of MINC, where time comes first, with time last."""
    volume = nib.load(path)
    if isinstance(volume, Minc1Image) and volume.ndim == 4:
        volume = SpatialImage(np.moveaxis(volume.get_fdata(), 0, -1), volume.affine)
    return nib.as_closest_canonical(volume)


PLANES = ("sagittal", "coronal", "axial")


def volume_views(path):
    """As `dicom_views`: the middle slice of each plane, of some volumes of a series."""
    data = np.atleast_3d(canonical(path).get_fdata())
    series = data if data.ndim > 3 else data[..., None]
    for frame in some(series.shape[3]):
        for axis, plane in enumerate(PLANES):
            middle = series.shape[axis] // 2
            view = View(frame=frame, plane=plane, slice=middle)
            yield view, volume_picture(series[..., frame].take(middle, axis=axis)[::-1, ::-1].T)


def volume_picture(values):
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [1, 99], method="inverted_cdf")
    if low == high:
        low, high = finite.min(), finite.max()
    return to_8_bits(np.clip(np.nan_to_num(values, nan=low), low, high), low, high if high > low else low + 1)


def some(frames):
    """The first, the middle and the last."""
    return sorted({0, frames // 2, frames - 1})


def outcome(path):
    """The largest difference in gray levels from the reference, or the reason why a file is refused."""
    try:
        wanted = list((volume_views if path.name.endswith(VOLUMES) else dicom_views)(path))
    except Exception:
        wanted = [(View(frame=0), None)]
    worst = 0
    for view, pixels in wanted:
        try:
            picture = load_picture(path, view)
        except UserError as error:
            return str(error).removeprefix(f"{path}: ")
        if pixels is None:
            return "shown, without a reference"
        image = Image.fromarray(pixels).convert("RGB")
        if picture.note.aspect != 1:
            image = image.resize(picture.note.size, Image.Resampling.BICUBIC)
        worst = max(worst, int(np.abs(np.asarray(picture.image, int) - np.asarray(image, int)).max()))
    return worst


@pytest.mark.filterwarnings("ignore")
def test_every_file_is_shown_as_the_reference_or_refused_with_a_reason():
    outcomes = {name: outcome(SHIPPED[package] / name) for package, name in FILES}
    displayed = {name: result for name, result in outcomes.items() if isinstance(result, int)}
    refused = {name: result for name, result in outcomes.items() if isinstance(result, str)}
    assert [name for name, difference in displayed.items() if difference > 1] == DIFFERS
    assert set(READABLE) <= refused.keys()
    assert len(DIFFERS + READABLE) <= 0.03 * len([*displayed, *READABLE])
    reasons = Counter(next((r for r in REFUSED if r in result), result) for result in refused.values())
    assert reasons == REFUSED
    # Of pydicom 3.0.2, pydicom-data 1.0.0 and nibabel 5.4.2. Others may ship more: then the page changes too.
    text = IMAGES_PAGE.read_text(encoding="utf-8")
    assert f"{len(FILES)} files: {len(displayed)} are shown and {len(refused)} refused" in text
    assert [name for name in DIFFERS + READABLE if name not in text] == []
