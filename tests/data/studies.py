"""A small CT with segmentations, written as a hospital has it: label map, one file per structure, or DICOM SEG."""

import json

import nibabel as nib
import numpy as np
from dicom_files import RESCALED, dataset
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

SHAPE = (60, 48, 32)
SPACING = (1.5, 1.5, 3.0)
AFFINE = np.array([[1.5, 0, 0, -40], [0, 1.5, 0, -30], [0, 0, 3, 100], [0, 0, 0, 1.0]])
# Center and radii in voxels; x runs to the patient's right. The stomach narrows toward the head, the spleen widens, and
# the left vein crosses the midline.
ELLIPSOIDS = {
    "liver": ((43, 26, 8), (11, 12, 7)),
    "kidney_right": ((43, 9, 9), (6, 5, 6)),
    "kidney_left": ((17, 9, 9), (6, 5, 6)),
    "stomach": ((18, 34, 5), (9, 6, 5)),
    "spleen": ((12, 22, 11), (7, 5, 4)),
    "lung_upper_lobe_right": ((45, 24, 26), (9, 14, 3)),
    "lung_lower_lobe_right": ((45, 24, 21), (9, 14, 2)),
    "lung_lower_lobe_left": ((13, 24, 23), (8, 14, 5)),
    "heart": ((29, 28, 23), (6, 8, 4)),
    "brachiocephalic_vein_right": ((46, 43, 27), (5, 3, 2)),
    "brachiocephalic_vein_left": ((30, 42, 27), (9, 3, 2)),
    "gallbladder": ((1, 1, 1), (0, 0, 0)),
}
LESIONS = {
    "tumor": [
        ((42, 26, 6), (4, 4, 2)),
        ((45, 24, 11), (2.3, 2.3, 1)),
        ((45, 32, 11), (2.3, 2.3, 1)),
        ((43, 9, 8), (2.3, 2.3, 1)),
        ((45, 24, 26), (3, 3, 1)),
    ],
    "cyst": [((17, 9, 10), (3.2, 2.2, 2)), ((13, 24, 23), (6, 6, 2))],
}
NUMBERS = {name: number for number, name in enumerate([*ELLIPSOIDS, *LESIONS], start=1)}


def ellipsoid(center, radii):
    grid = np.indices(SHAPE).T - np.array(center)
    return ((grid / np.maximum(radii, 1e-9)) ** 2).sum(axis=-1).T <= 1


MASKS = {name: ellipsoid(*shape) & (name != "gallbladder") for name, shape in ELLIPSOIDS.items()}
MASKS |= {name: np.any([ellipsoid(*shape) for shape in shapes], axis=0) for name, shapes in LESIONS.items()}
LABELS = np.zeros(SHAPE, np.uint8)
for _name, _mask in MASKS.items():
    LABELS[_mask] = NUMBERS[_name]
BODY = ellipsoid((29.5, 23.5, 15), (29.4, 23.4, 60))
HU = np.where(BODY, 40, -1000) + np.random.default_rng(0).integers(-9, 9, SHAPE) + 8 * LABELS
HU = HU.astype(np.int16)


def stored_as(values, codes="RAS"):
    """A volume in another order and direction of the stored axes."""
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return nib.Nifti1Image(nib.apply_orientation(values, change), AFFINE @ inv_ornt_aff(change, SHAPE))


def write_study(folder, form="map", codes="RAS"):
    """Write the study: `form` is "map", "files", or "seg" (binary), "fractional" or "labelmap" (DICOM)."""
    folder.mkdir(parents=True, exist_ok=True)
    if form in ("map", "files"):
        nib.save(stored_as(HU, codes), folder / "image.nii.gz")
    if form == "map":
        nib.save(stored_as(LABELS, codes), folder / "segmentation.nii.gz")
        (folder / "names.json").write_text(json.dumps({str(number): name for name, number in NUMBERS.items()}))
    elif form == "files":
        (folder / "segmentations").mkdir()
        for name, mask in MASKS.items():
            nib.save(stored_as(mask.astype(np.uint8), codes), folder / "segmentations" / f"{name}.nii.gz")
    else:
        write_dicom(folder, form)
    return folder


def write_dicom(folder, form):
    uids = [generate_uid(entropy_srcs=["study", str(index)]) for index in range(SHAPE[2])]
    for index, uid in enumerate(uids):
        geometry = {"PixelSpacing": [1.5, 1.5], "SliceThickness": 3, "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        names = {"SOPInstanceUID": uid, "SeriesInstanceUID": "1.2.9", "ImagePositionPatient": corner(index)}
        save(folder / f"{index:02d}.dcm", dataset(shown(HU, index), **geometry, **names, **RESCALED))
    frames, pixels = [], []
    for name, mask in MASKS.items() if form != "labelmap" else {"": LABELS}.items():
        for index in np.flatnonzero(mask.any(axis=(0, 1))):
            frame = Dataset()
            frame.PlanePositionSequence = [item(ImagePositionPatient=corner(index))]
            if name:
                frame.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=NUMBERS[name])]
            frames.append(frame)
            pixels.append(shown(mask, index))
    kind = {"seg": "BINARY", "fractional": "FRACTIONAL", "labelmap": "LABELMAP"}[form]
    values = np.array(pixels, np.uint8) * (200 if form == "fractional" else 1)
    ds = dataset(
        values, NumberOfFrames=len(frames), Modality="SEG", SOPInstanceUID="1.2.8.1", SeriesInstanceUID="1.2.8"
    )
    if form == "seg":
        ds.PixelData = np.packbits(values.ravel(), bitorder="little").tobytes()
        ds.PixelData += b"\0" * (len(ds.PixelData) % 2)
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0
    ds.SegmentationType, ds.MaximumFractionalValue = kind, 255
    ds.SegmentSequence = [item(SegmentNumber=number, SegmentLabel=name) for name, number in NUMBERS.items()]
    shared = Dataset()
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.PixelMeasuresSequence = [item(PixelSpacing=[1.5, 1.5], SliceThickness=3, SpacingBetweenSlices=3)]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    save(folder / "seg.dcm", ds)


def shown(values, index):
    """An axial slice as DICOM stores it: rows to the back, columns to the patient's left."""
    return values[::-1, ::-1, index].T


def corner(index):
    """Position of the first pixel in DICOM coordinates (left, back, head)."""
    right, front, head = (AFFINE @ [SHAPE[0] - 1, SHAPE[1] - 1, index, 1])[:3]
    return [-right, -front, head]


def item(**elements):
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def save(path, ds):
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
