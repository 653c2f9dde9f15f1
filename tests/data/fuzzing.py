"""Files that lie: bytes changed at random, and a reader held to its word on each of them in a bounded process.

A case is known by its number alone: the same number gives the same bytes. A fork reads them with a limit on its memory
and on the processor time of each case; when it dies, the parent still knows the case it died of.
"""

from __future__ import annotations

import mmap
import multiprocessing
import random
import resource
import signal
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from medvlm_r1.errors import UserError

MEMORY = 3 * 2**30
"""Bytes beyond what the process has at its start: a picture of 100 megapixels, several times over."""
SECONDS = 60
"""Processor time of one case; a loop without end dies of it."""

Case = Callable[[int], bytes]
_EDGES = [
    *(b"\0", b"\xff", b"\x7f", b"\x80", b"\1", b"\0\0", b"\xff\xff", b"\x7f\xff", b"\xff\x7f", b"\0\0\0\0"),
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8),
]


def mutant(seeds: Sequence[bytes], number: int, *, within: int | None = None, tokens: Sequence[bytes] = ()) -> bytes:
    """One of the seeds with one to eight changes: in the first `within` bytes alone, or with `tokens` of the format."""
    rng = random.Random(number)
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        end = min(len(data), within or len(data))
        if end == 0:
            break
        at = rng.randrange(end)
        span = min(end - at, rng.choice((1, 2, 4, 16, 64, 1024)))
        edge, other = rng.choice(_EDGES), rng.choice(seeds)
        there = rng.randrange(max(1, len(other)))
        # How many bytes are taken out, and what is put in their place.
        changes = [
            (1, bytes([data[at] ^ 1 << rng.randrange(8)])),
            (1, rng.randbytes(1)),
            (len(edge), edge),
            (span, b""),
            (0, bytes(data[at : at + span]) * rng.choice((1, 2, 50))),
            (span, other[there : there + span]),
            (span, rng.randbytes(span)),
        ]
        # Not always: a file cut short is refused at once, and hides the other changes.
        if rng.random() < 0.3:
            changes.append((len(data), b""))
        if tokens:
            token = rng.choice(tokens)
            changes.append((rng.choice((0, len(token))), token))
        size, new = rng.choice(changes)
        data[at : at + size] = new
    return bytes(data)


def with_right_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold now, so that a decoder goes on into them."""
    out, at = bytearray(png[:8]), 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        if at + 12 + length > len(png):
            break
        out += png[at : at + 4] + body + zlib.crc32(body).to_bytes(4)
        at += 12 + length
    return bytes(out + png[at:])


def hammer(case: Case, numbers: range, file: Path, read: Callable[[Path], object]) -> Counter[str]:
    """Write each case to a file and read it; count those that were `read` and `refused`.

    `read` must return, or raise a UserError that names the file and the reason. An AssertionError names a case that
    killed the process, took memory or time beyond the bounds, or raised something else.
    """
    context = multiprocessing.get_context("fork")
    current = mmap.mmap(-1, 8)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(case, numbers, file, read, current, theirs))
    child.start()
    theirs.close()
    try:
        counts, fault = ours.recv()
    except EOFError:
        counts, fault = Counter(), None
    child.join()
    last = int.from_bytes(current[:8])
    if child.exitcode:
        name = signal.Signals(-child.exitcode).name if child.exitcode < 0 else str(child.exitcode)
        raise AssertionError(f"case {last} of {file.name} ended the process ({name})")
    assert not fault, f"case {last} of {file.name}:\n{fault}"
    assert counts.total() == len(numbers)
    return Counter(counts)


def hammer_on(
    case: Case, first: int, file: Path, read: Callable[[Path], object], soaking: Callable[[], float], step: int = 100
) -> int:
    """`hammer` from a case on, so many at once while there is time; how many there were."""
    number = first
    while number == first or soaking():
        hammer(case, range(number, number + step), file, read)
        number += step
    return number - first


def _work(
    case: Case, numbers: range, file: Path, read: Callable[[Path], object], current: mmap.mmap, connection: Connection
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    counts: Counter[str] = Counter()
    fault = ""
    for number in numbers:
        current[:8] = number.to_bytes(8)
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + SECONDS, hard))
        file.write_bytes(case(number))
        try:
            counts[_outcome(file, read)] += 1
        except BaseException:
            fault = traceback.format_exc()
            break
    connection.send((counts, fault))


def _outcome(file: Path, read: Callable[[Path], object]) -> str:
    try:
        read(file)
        return "read"
    except UserError as error:
        refusal = error
    message = str(refusal)
    assert file.name in message or file.parent.name in message, f"the file is not named: {message}"
    assert len(message.replace(str(file), "").strip(": ")) > 10, f"no reason is given: {message}"
    assert len(message) < 10_000, f"a message of {len(message)} characters"
    # A reader that takes all errors for damage must not take this one for it.
    assert "not enough memory" not in message, message
    assert "MemoryError" not in message, message
    assert not isinstance(refusal.__cause__, MemoryError), message
    return "refused"
