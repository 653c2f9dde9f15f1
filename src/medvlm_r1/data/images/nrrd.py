"""Open an NRRD volume as a nibabel image. pynrrd parses the header and arranges the values.

pynrrd alone would follow the path of a data file in the header and unpack any amount of data.
"""

import bz2
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np

from medvlm_r1.errors import UserError

# World axes of each space, as signs of right, front and head.
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "LPS"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "LAS"), (-1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "RAS"), (1, 1, 1)),
}
_UNPACKERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("gzip", "gz"), lambda file: gzip.GzipFile(fileobj=file)),
    **dict.fromkeys(("bzip2", "bz2"), bz2.BZ2File),
}


def open_nrrd(path: Path, check_shape: Callable[[tuple[int, ...], np.dtype[Any]], int]) -> Any:
    """Read an NRRD volume whose values follow its header.

    Args:
        path: The file.
        check_shape: Checks the shape and data type of the volume, and returns its size in bytes.

    Returns:
        A nibabel image. An axis that is not in space, such as time, becomes the last.

    Raises:
        UserError: The values do not follow the header, or the orientation is not stored.
    """
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        if any(
            header.get(name) or header.get(name.replace(" ", "")) for name in ("data file", "byte skip", "line skip")
        ):
            raise UserError(f"{path}: an NRRD header whose values do not follow it; save it again as one .nrrd file")
        directions = np.atleast_2d(header.get("space directions", [[]]))
        origin = np.asarray(header.get("space origin", np.zeros(3)))
        inside = np.isfinite(directions).all(axis=1)
        signs = _SPACES.get(header.get("space", ""))
        if signs is None or directions.shape[1] != 3 or inside.sum() != 3 or origin.shape != (3,):
            raise UserError(
                f"{path}: an NRRD file without a known space and three space directions: left and right are unknown; "
                "save it again with its orientation, for example with 3D Slicer"
            )
        order = [*np.flatnonzero(inside), *np.flatnonzero(~inside)]
        # The widest type is assumed: pynrrd uses as many bytes as the type in the header needs.
        size = check_shape(tuple(int(header["sizes"][axis]) for axis in order), np.dtype(np.float64))
        unpack = _UNPACKERS.get(header["encoding"])
        content = unpack(file).read(size + 1) if unpack else file.read()
        header["encoding"] = "raw" if unpack else header["encoding"]
        values = nrrd.read_data(header, io.BytesIO(content))
    affine = np.eye(4)
    affine[:3] = np.diag(signs) @ np.column_stack([*directions[inside], origin])
    return nib.spatialimages.SpatialImage(values.transpose(order), affine)
