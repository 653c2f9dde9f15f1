"""A file of which nobody reads more than it holds."""

import io
from pathlib import Path

# Of a compressed file that is held in memory as a whole.
MOST_INFLATED = 2**29
_WORTH_ASKING = 2**20


class Bounded(io.BufferedReader):
    """A file opened for readers that believe its header.

    Python makes room for as many bytes as it is asked for before it reads any: a damaged length of 4 GB would take
    4 GB.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Args:
            path: May be a `Held`.
        """
        super().__init__(path.open("rb", buffering=0))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, and at most what is left."""
        if size is not None and size > _WORTH_ASKING:
            size = min(size, max(0, self._size - self.tell()))
        return super().read(size)
