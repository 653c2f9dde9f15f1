"""DICOM files made for the tests of the loader."""

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from medvlm_r1.data.images import View, load_picture

CT = "1.2.840.10008.5.1.4.1.1.2"


def dataset(pixels, syntax=ExplicitVRLittleEndian, **elements):
    """A minimal file around an array (rows, columns), (rows, columns, 3) or, with NumberOfFrames, (n, ...)."""
    pixels = np.asarray(pixels)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = CT
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.SOPClassUID = CT
    ds.SOPInstanceUID = "1.2.3"
    ds.BurnedInAnnotation = "NO"
    shape = pixels.shape[1:] if "NumberOfFrames" in elements else pixels.shape
    ds.Rows, ds.Columns = shape[:2]
    ds.SamplesPerPixel = 3 if len(shape) == 3 else 1
    ds.PhotometricInterpretation = "RGB" if len(shape) == 3 else "MONOCHROME2"
    if len(shape) == 3:
        ds.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    ds.BitsAllocated = bits
    if pixels.dtype.kind in "iu":
        ds.BitsStored, ds.HighBit = bits, bits - 1
        ds.PixelRepresentation = int(pixels.dtype.kind == "i")
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        ds.PixelData = raw + b"\0" * (len(raw) % 2)
        ds["PixelData"].VR = "OW" if bits > 8 else "OB"
    else:
        ds.FloatPixelData = pixels.astype("<f4").tobytes()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def table(first, bits, data):
    """Items of a lookup table sequence; `data` are numbers, or bytes of 16-bit words, or of entries of 8 bits."""
    item = Dataset()
    packed = isinstance(data, bytes)
    item.LUTDescriptor = [len(data) // (1 if bits == 8 else 2) if packed else len(data), first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.LUTData = data if packed else list(data)
    item["LUTData"].VR = "OW" if packed else "US"
    return [item]


def without_meta(ds):
    stream = io.BytesIO()
    del ds.file_meta
    ds.save_as(stream, implicit_vr=False, little_endian=True)
    return stream.getvalue()


def greys(path, view=View()):  # noqa: B008
    image = np.asarray(load_picture(path, view).image)
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 0] == image[..., 2]).all()
    return image[..., 0].tolist()


HOUNSFIELD = np.array([[-1000, -160, 40, 239, 1000]], "<i2")
STORED = np.array([[24, 864, 1064, 1263, 2024]], "<u2")  # the same with an intercept of -1024
SHOWN = [0, 0, 128, 255, 255]  # by the window 40/400
SLOPE, INTERCEPT, WINDOW = {"RescaleSlope": 1}, {"RescaleIntercept": -1024}, {"WindowCenter": 40, "WindowWidth": 400}
RESCALED = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0}
