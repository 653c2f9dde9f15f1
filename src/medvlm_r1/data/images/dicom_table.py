"""VOI lookup tables of DICOM files, in any packing.

Not by pydicom's `apply_voi`: it counts entries in their own type, so that more than 256 of 8 bits wrap round, and
unpacks 16 bits whatever there are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from medvlm_r1.data.images.windowing import Array, to_bytes

_BITS = (8, *range(10, 17))


@dataclass(frozen=True, slots=True)
class Table:
    """A lookup table.

    Attributes:
        entries: Shape (n,), whole numbers.
        first: The value that the first of them stands for.
        white: The entry that is shown as white.
        said: What is to be said with the picture.
    """

    entries: Array
    first: int
    white: int
    said: tuple[str, ...] = ()

    def grey(self, values: Array) -> Array:
        """Values to uint8, the same shape. The table is indexed by whole numbers; values outside take its ends."""
        places = np.clip(np.rint(values) - self.first, 0, self.entries.size - 1).astype(np.int64)
        return to_bytes(self.entries[places] * (255 / self.white))


def read_table(item: Any, *, little: bool, signed: bool) -> Table:
    """Read an item of VOILUTSequence.

    Args:
        item: With LUTDescriptor and LUTData.
        little: Whether the file is little endian.
        signed: Whether the values that are looked up can be negative.

    Raises:
        ValueError: The descriptor and the entries do not fit together.
    """
    count, first, bits = (int(n) for n in item.LUTDescriptor)
    # A count of 65,536 is written as 0, and one above 32,767 may have been read as a negative number.
    count = count % 2**16 or 2**16
    # Implicit VR does not tell the sign, and pydicom takes that of the stored pixels; the standard, of the values here.
    if signed and first >= 2**15:
        first -= 2**16
    entries = _entries(item.LUTData, count, little=little, bits=bits)
    largest = int(entries.max())
    if bits not in _BITS or entries.size < count or (bits == 8 and largest > 255):
        raise ValueError("the table's descriptor does not fit its entries")
    # Some writers say 16 bits and use 12, whose picture would be practically black: the entries decide.
    used = max(1, largest.bit_length())
    if used >= bits:
        return Table(entries, first, 2**bits - 1)
    said = f"The stored lookup table tells of {bits} bits and uses {used}: the most that {used} hold is shown as white."
    return Table(entries, first, 2**used - 1, (said,))


def _entries(data: Any, count: int, *, little: bool, bits: int) -> Array:
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.int64))[:count]
    # One byte an entry, and one more to make the length even.
    packed = little and bits == 8 and count > 1 and len(data) in (count, count + count % 2)
    kind = "u1" if packed else "<u2" if little else ">u2"
    return np.frombuffer(data, dtype=kind, count=count).astype(np.int64)
