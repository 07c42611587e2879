"""Chooses real files of this machine: no content twice, in an order that the machine's state hardly moves."""

import hashlib
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Later on these are read again and again, so what changes while a benchmark runs has no place here.
SKIPPED_FOLDERS = {"target", "tmp", ".git", "__pycache__"}
FIXED_TIME_NS = 1_700_000_000 * 10**9


@dataclass(frozen=True)
class Candidate:
    """A regular file that may become part of a data set. `name` is its path without the leading '/'."""

    path: str
    size: int

    @property
    def name(self):
        """Where it goes, relative to the root of the data set."""
        return self.path.lstrip("/")


def roots():
    """The folders to choose from, as far as this machine has them."""
    home = Path.home()
    rustup = Path(os.environ.get("RUSTUP_HOME", home / ".rustup")) / "toolchains"
    cargo = Path(os.environ.get("CARGO_HOME", home / ".cargo")) / "registry" / "src"
    found = [Path("/usr"), Path("/opt"), rustup, cargo, *go_folders()]
    kept = []
    for root in (path.resolve() for path in found if path.is_dir()):
        if not any(root.is_relative_to(other) for other in kept):
            kept.append(root)
    return kept


def go_folders():
    """Go's toolchain and its unpacked modules."""
    if not shutil.which("go"):
        return []
    answer = subprocess.run(["go", "env", "GOROOT", "GOMODCACHE"], capture_output=True, text=True, check=True)
    return [Path(line) for line in answer.stdout.splitlines() if line]


def folders(system_first):
    """All folders below the roots with the regular files in each, in the order of the hash of their path.

    That order gives a small data set the same mixture as a large one, and a file that comes or goes moves nothing else.
    With `system_first` the roots keep their own order, so that the set looks like a server's disk before all.
    """
    found = []
    for rank, root in enumerate(roots()):
        for folder, below, names in os.walk(root):
            # The module cache keeps the packed modules too, under cache/: the same contents a second time.
            below[:] = [name for name in below if name not in SKIPPED_FOLDERS and not is_packed(folder, name)]
            files = [regular(os.path.join(folder, name)) for name in sorted(names)]
            if files := [file for file in files if file]:
                found.append((rank if system_first else 0, digest_of_text(folder), files))
    found.sort(key=lambda item: item[:2])
    return [files for _rank, _digest, files in found]


def is_packed(folder, name):
    """Whether this is the download cache of Go's module cache."""
    return name == "cache" and folder.endswith("/pkg/mod")


def regular(path):
    """The candidate at `path`, or None if it is no readable regular file."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return Candidate(path, found.st_size) if stat.S_ISREG(found.st_mode) and found.st_size else None


def unique(groups):
    """Takes out every file whose content an earlier one has. Only files of a size seen twice are read."""
    seen_twice = set()
    sizes = set()
    for file in (file for group in groups for file in group):
        (seen_twice if file.size in sizes else sizes).add(file.size)
    contents = set()
    for group in groups:
        kept = []
        for file in group:
            try:
                content = file.size if file.size not in seen_twice else digest_of_file(file.path)
            except OSError:
                continue
            if content not in contents:
                contents.add(content)
                kept.append(file)
        if kept:
            yield kept


def digest_of_text(text):
    """A short digest of a path, for the order."""
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest()


def digest_of_file(path):
    """The digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).digest()


def copy(files, target, cap_bytes=None):
    """Copies `files` below `target`, each cut at `cap_bytes`, all with one fixed time. Returns the bytes written."""
    total = 0
    for file in files:
        place = os.path.join(target, file.name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(file.path, "rb") as source, open(place, "wb") as sink:
            if cap_bytes is None:
                shutil.copyfileobj(source, sink, 1 << 20)
            else:
                sink.write(source.read(cap_bytes))
            total += sink.tell()
        shutil.copymode(file.path, place)
    for folder, below, names in os.walk(target, topdown=False):
        for name in [*names, *below]:
            os.utime(os.path.join(folder, name), ns=(FIXED_TIME_NS, FIXED_TIME_NS))
    return total
