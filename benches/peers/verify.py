"""Says whether what came back is what was backed up."""

import os
import stat

from extents import READ_BYTES, blocks, data_extents, union


class Different(Exception):
    """A restored file or tree is not what was backed up."""


def same_image(original, restored):
    """Compares two sparse files byte for byte; only ranges that are a hole in both are not read."""
    left, right = os.open(original, os.O_RDONLY), os.open(restored, os.O_RDONLY)
    try:
        sizes = os.fstat(left).st_size, os.fstat(right).st_size
        if sizes[0] != sizes[1]:
            raise Different(f"{restored}: {sizes[1]} bytes instead of {sizes[0]}")
        both = union(data_extents(left), data_extents(right))
        for offset, length in blocks(both, READ_BYTES):
            if os.pread(left, length, offset) != os.pread(right, length, offset):
                raise Different(f"{restored}: other bytes within {length} from {offset}")
    finally:
        os.close(left)
        os.close(right)


def same_tree(original, restored):
    """Compares two trees: names, kinds, contents, link targets, modes and owners.

    Times are compared too, but only counted, as not every tool restores those of directories and links.
    """
    times_differ = 0
    pending = [""]
    while pending:
        folder = pending.pop()
        left, right = entries(original, folder), entries(restored, folder)
        if left.keys() != right.keys():
            odd = sorted(left.keys() ^ right.keys())[0]
            raise Different(f"{restored}/{folder}: {odd!r} is in one tree only")
        for name, entry in left.items():
            path = os.path.join(folder, name)
            same_entry(path, entry, right[name])
            mine, theirs = entry.stat(follow_symlinks=False), right[name].stat(follow_symlinks=False)
            times_differ += mine.st_mtime_ns != theirs.st_mtime_ns
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
    if times_differ:
        print(f"    note: {times_differ} entries came back with another modification time", flush=True)


def entries(root, folder):
    """The entries of one folder by name."""
    with os.scandir(os.path.join(root, folder)) as listing:
        return {entry.name: entry for entry in listing}


def same_entry(path, left, right):
    """Compares two entries of the same name, without what is below them."""
    mine, theirs = left.stat(follow_symlinks=False), right.stat(follow_symlinks=False)
    if (mine.st_mode, mine.st_uid, mine.st_gid) != (theirs.st_mode, theirs.st_uid, theirs.st_gid):
        raise Different(f"{path}: another kind, mode or owner")
    if stat.S_ISLNK(mine.st_mode):
        if os.readlink(left.path) != os.readlink(right.path):
            raise Different(f"{path}: another link target")
    elif stat.S_ISREG(mine.st_mode):
        if mine.st_size != theirs.st_size:
            raise Different(f"{path}: {theirs.st_size} bytes instead of {mine.st_size}")
        with open(left.path, "rb") as one, open(right.path, "rb") as other:
            while block := one.read(READ_BYTES):
                if block != other.read(READ_BYTES):
                    raise Different(f"{path}: other contents")
