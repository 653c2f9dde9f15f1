"""Fetch archives of pip, apt and npm packages, and extract single files. No package code is run."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from medvlm_r1.console import progress_bar
from medvlm_r1.errors import UserError

CLIENTS = {
    "wheel": (["pip", "download", "--no-deps", "--only-binary", ":all:"], "=="),
    "apt": (["apt-get", "download"], "="),
    "npm": (["npm", "pack"], "@"),
    "sdist": (["(source archives of the package index:)"], "=="),
}
"""Command of each source, and the sign between name and version.

There is none for source archives, because `pip download` runs their setup code.
"""

_SDIST = """
import shutil, sys
from pip._internal.commands import create_command
from pip._internal.req.constructors import install_req_from_line
command = create_command("download")
options, _ = command.parse_args(["--no-deps", "--no-binary", ":all:", sys.argv[1]])
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session, ignore_requires_python=True)
    requirement = install_req_from_line(sys.argv[1])
    found = finder.find_best_candidate(requirement.name, requirement.specifier).best_candidate
    if found is None:
        sys.exit("no source archive of this version")
    answer = session.get(found.link.url_without_fragment, stream=True, headers={"Accept-Encoding": "identity"})
    answer.raise_for_status()
    with open(found.link.filename, "wb") as file:
        shutil.copyfileobj(answer.raw, file)
"""
"""Download a source archive with pip's index and session, and do nothing else with it."""


class Package(NamedTuple):
    """A package: `source` is a key of `CLIENTS`."""

    source: str
    name: str
    version: str

    @property
    def pinned(self) -> str:
        """Name and version in the form that the client accepts."""
        return f"{self.name}{CLIENTS[self.source][1]}{self.version}"


def find_files(wanted: Sequence[tuple[Package, str]], folder: Path, *, download: bool = False) -> list[Path]:
    """Find files of packages: in an installed package, or extracted from an archive.

    Args:
        wanted: Packages and files in them, without the top folder of a source or npm archive.
        folder: Folder of the archives. The files are written to `folder/NAME-VERSION/`.
        download: Whether to fetch missing archives.

    Returns:
        The files, in order.

    Raises:
        UserError: Packages or files are missing. The message has the commands that fetch the packages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing: dict[Package, set[str]] = {}
    for package, file in wanted:
        if not _path(package, file, folder).is_file():
            missing.setdefault(package, set()).add(file)
    absent = [package for package in missing if _archive(package, folder) is None]
    if absent and not download:
        lines = "\n".join(f"    {line}" for line in fetch_lines(absent))
        raise UserError(f"{folder}: {len(absent)} packages are missing; add --download, or fetch them there:\n{lines}")
    with progress_bar("Packages") as advance:
        for index, (package, files) in enumerate(missing.items()):
            if package in absent:
                _download(package, folder)
            _unpack(package, files, folder)
            advance(index + 1, len(missing))
    return [_path(package, file, folder) for package, file in wanted]


def fetch_lines(packages: Sequence[Package]) -> list[str]:
    """Commands that fetch packages into the current folder, one command per source. Source archives are only listed."""
    lines = []
    for source, (command, _) in CLIENTS.items():
        names = [package.pinned for package in packages if package.source == source]
        lines += [" ".join([*command, *names])] if names else []
    return lines


def _path(package: Package, file: str, folder: Path) -> Path:
    """Where a file of a package is, or will be."""
    if package.source == "wheel":
        with suppress(PackageNotFoundError):
            installed = distribution(package.name)
            if installed.version == package.version:
                return Path(str(installed.locate_file(file)))
    return folder / f"{package.name}-{package.version}" / file


def _archive(package: Package, folder: Path) -> Path | None:
    """The archive of a package in the folder, by its name."""

    def plain(name: str) -> str:
        return re.sub(r"[^a-z0-9+]+", "_", name.casefold())

    start = plain(f"{package.name} {package.version} ")
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return next((path for path in files if plain(path.name).startswith(start)), None)


def _download(package: Package, folder: Path) -> None:
    command = CLIENTS[package.source][0]
    python = {"wheel": ["-m", *command], "sdist": ["-c", _SDIST]}.get(package.source)
    words = [*([sys.executable, *python] if python else command), package.pinned]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise UserError(f"{package.pinned}: {words[0]} is not installed; fetch the package elsewhere") from error
    if done.returncode or _archive(package, folder) is None:
        raise UserError(f"{package.pinned}: not fetched; {words[0]} reported: {done.stderr.strip()[-300:]}")


def _unpack(package: Package, files: set[str], folder: Path) -> None:
    """Write some files of a package's archive to `folder/NAME-VERSION/`."""
    archive = _archive(package, folder)
    if archive is None:
        raise UserError(f"{folder}: no archive of {package.pinned}; fetch it again")
    target, left = folder / f"{package.name}-{package.version}", set(files)
    with _members(archive) as members:
        for member, read in members:
            # Archives of sources and of npm have a top folder; those of wheels and Debian begin with "./" or nothing.
            file = member.partition("/")[2] if package.source in ("sdist", "npm") else member.removeprefix("./")
            if file in left:
                left.discard(file)
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                (target / file).write_bytes(read())
    if left:
        raise UserError(f"{archive}: has no {min(left)}; wanted an archive of {package.pinned}")


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[tuple[str, Callable[[], bytes]]]]:
    """Names of the files in an archive, each with a function that reads it."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as packed:
            yield ((name, lambda name=name: packed.read(name)) for name in packed.namelist())  # type: ignore[misc]
        return
    with TemporaryDirectory() as folder:
        if archive.suffix == ".deb":
            tar = Path(folder) / "files.tar"
            with tar.open("wb") as stream:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", f"{archive}"], stdout=stream, check=True)
            archive = tar
        with tarfile.open(archive) as opened:
            files = (member for member in opened if member.isfile())
            yield ((member.name, lambda member=member: _content(opened, member)) for member in files)  # type: ignore[misc]


def _content(opened: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = opened.extractfile(member)
    return stream.read() if stream else b""
