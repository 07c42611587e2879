"""The data sets: made once from this machine's own files, then kept.

`image`    a raw ext4 disk image of 8 GiB with about 6 GB of real files
`changed`  the same image with 1 % changed in clustered extents, and the list of those extents
`random`   1 GiB that no tool can compress
`tree`     60,000 real files of about 700 MB
`sparse`   a 2 TiB image with 1 GiB of data         (for memory; not made unless asked for)
`tiny`     2,000,000 files of 100 bytes             (for memory; not made unless asked for)
"""

import json
import os
import random
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import pick
from extents import PAGE_BYTES, READ_BYTES, blocks, data_extents
from measure import in_child

DEFAULT_SETS = ("image", "changed", "random", "tree")
EXTRA_SETS = ("sparse", "tiny")

SEED = 20_240_601
IMAGE_BYTES = 8 << 30
IMAGE_CONTENT_BYTES = 5_950_000_000
CHANGED_SHARE = 0.01
CHANGED_CLUSTERS = 8
CHANGED_EXTENT_BYTES = (256 << 10, 8 << 20)
RANDOM_BYTES = 1 << 30
TREE_FILES = 60_000
TREE_BYTES = 700_000_000
SPARSE_BYTES = 2 << 40
SPARSE_DATA_BYTES = 1 << 30
TINY_FILES = 2_000_000
TINY_FILE_BYTES = 100
TINY_FILES_PER_FOLDER = 500
IMAGE_UUID = "6d1a7f0e-53c1-4b8e-9d43-0c5f2b8f1a11"


@dataclass
class DataSet:
    """One data set on disk. Rates go by `rate_bytes`: the allocated bytes of an image, the contents of a tree."""

    name: str
    path: str
    is_tree: bool
    logical_bytes: int
    rate_bytes: int
    files: int = 1
    zstd1_bytes: int | None = None
    changed_bytes: int = 0
    changed_blocks: str | None = None

    def describe(self):
        """One line of facts."""
        what = f"{self.files:,} files, " if self.is_tree else f"{self.logical_bytes / 1e9:.2f} GB, "
        text = f"{self.name}: {what}{self.rate_bytes / 1e9:.3f} GB {'of contents' if self.is_tree else 'allocated'}"
        if self.zstd1_bytes:
            ratio = self.rate_bytes / self.zstd1_bytes
            text += f", zstd -1 takes it to {self.zstd1_bytes / 1e9:.3f} GB (ratio {ratio:.2f})"
        if self.changed_bytes:
            text += f", {self.changed_bytes / 1e6:.1f} MB changed"
        return text


class DataSets:
    """Makes and finds the data sets of one scale below one folder."""

    def __init__(self, folder, scale):
        self.scale = scale
        self.folder = Path(folder) / f"scale-{scale:g}"

    def get(self, name):
        """The data set `name`, made now if it is not there yet."""
        facts = self.folder / f"{name}.json"
        if not facts.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            if name == "changed":
                self.get("image")
            print(f"making the data set '{name}' in {self.folder} ...", flush=True)
            in_child(self.make, name, facts)
        return DataSet(**json.loads(facts.read_text()))

    def make(self, name, facts):
        """Makes one data set and, as the last step, its file of facts."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        made = getattr(self, f"make_{name}")(place)
        os.sync()
        partial = facts.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(made), indent=1) + "\n")
        partial.rename(facts)
        print(f"  {made.describe()}", flush=True)

    def make_image(self, place):
        """Copies the chosen files to one side, has mke2fs fill an image with them, and removes the copy."""
        stage = place / "stage"
        stage.mkdir()
        pick.copy(self.image_files(), stage)
        image = place / "disk.img"
        with open(image, "wb") as file:
            file.truncate(scaled(IMAGE_BYTES, self.scale, 1 << 20))
        made = subprocess.run(
            [
                "mke2fs",
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                "4096",
                "-m",
                "1",
                "-i",
                "16384",
                "-L",
                "bench",
                "-U",
                IMAGE_UUID,
                "-E",
                f"hash_seed={IMAGE_UUID},lazy_itable_init=1,root_owner=0:0",
                "-d",
                stage,
                image,
            ],
            env={
                **os.environ,
                "E2FSPROGS_FAKE_TIME": "1700000000",
                "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise OSError(f"mke2fs failed: {made.stderr.strip()}")
        shutil.rmtree(stage)
        return image_facts("image", image)

    def image_files(self):
        """Whole folders, the system's first, until the wanted number of bytes is reached on 4 KiB blocks."""
        wanted = IMAGE_CONTENT_BYTES * self.scale
        for group in pick.unique(pick.folders(system_first=True)):
            for file in group:
                if wanted <= 0:
                    return
                if file.size <= IMAGE_CONTENT_BYTES * self.scale / 20:
                    wanted -= -(-file.size // PAGE_BYTES) * PAGE_BYTES
                    yield file
        print(
            f"  this machine has {wanted / 1e9:.2f} GB too little for the image: it becomes smaller",
            flush=True,
        )

    def make_changed(self, place):
        """A copy of the image with clustered extents overwritten by bytes that do not compress."""
        original = self.get("image")
        image = place / "disk.img"
        subprocess.run(["cp", "--sparse=auto", original.path, image], check=True)
        chance = random.Random(SEED)
        with open(image, "r+b") as file:
            data = list(data_extents(file.fileno()))
            changed = sorted(changed_extents(data, int(original.logical_bytes * CHANGED_SHARE), chance))
            for offset, length in changed:
                file.seek(offset)
                file.write(chance.randbytes(length))
        listing = place / "blocks.jsonl"
        listing.write_text("".join(json.dumps({"offset": o, "length": n}) + "\n" for o, n in changed))
        facts = image_facts("changed", image, compressibility=False)
        facts.changed_bytes = sum(length for _, length in changed)
        facts.changed_blocks = str(listing)
        return facts

    def make_random(self, place):
        """Bytes of a seeded generator."""
        chance = random.Random(SEED)
        image = place / "disk.img"
        with open(image, "wb") as file:
            for _ in range(scaled(RANDOM_BYTES, self.scale, 1 << 20) >> 20):
                file.write(chance.randbytes(1 << 20))
        return image_facts("random", image, compressibility=False)

    def make_tree(self, place):
        """Whole folders in hash order until there are enough files, all cut at one length that gives the total."""
        count = max(1, round(TREE_FILES * self.scale))
        files = []
        for group in pick.unique(pick.folders(system_first=False)):
            files += group[: count - len(files)]
            if len(files) == count:
                break
        cap_bytes = cap_for([file.size for file in files], TREE_BYTES * self.scale)
        total = pick.copy(files, place / "tree", cap_bytes)
        return DataSet("tree", str(place / "tree"), True, total, total, len(files))

    def make_sparse(self, place):
        """A huge hole with 1 MiB extents of random bytes at random places."""
        chance = random.Random(SEED)
        size, data = scaled(SPARSE_BYTES, self.scale, 1 << 20), scaled(SPARSE_DATA_BYTES, self.scale, 1 << 20)
        image = place / "disk.img"
        with open(image, "wb") as file:
            file.truncate(size)
            for slot in sorted(chance.sample(range(size >> 20), data >> 20)):
                file.seek(slot << 20)
                file.write(chance.randbytes(1 << 20))
        return image_facts("sparse", image, compressibility=False)

    def make_tiny(self, place):
        """Many files of 100 random bytes, 500 to a folder."""
        chance = random.Random(SEED)
        count = round(TINY_FILES * self.scale)
        tree = place / "tree"
        for number in range(count):
            folder = tree / f"{number // TINY_FILES_PER_FOLDER:06d}"
            if number % TINY_FILES_PER_FOLDER == 0:
                folder.mkdir(parents=True)
            (folder / f"{number:09d}").write_bytes(chance.randbytes(TINY_FILE_BYTES))
        total = count * TINY_FILE_BYTES
        return DataSet("tiny", str(tree), True, total, total, count)


def scaled(full_bytes, scale, unit):
    """`full_bytes` times `scale`, in whole units."""
    return max(unit, int(full_bytes * scale) // unit * unit)


def cap_for(sizes, wanted_bytes):
    """The length at which to cut every file so that all together have about `wanted_bytes`."""
    low, high = 1, max(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(size, middle) for size in sizes) <= wanted_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def changed_extents(data, wanted_bytes, chance):
    """Extents on 4 KiB bounds, in a few clusters of allocated space; lengths and gaps vary over a wide range."""
    total = sum(length for _, length in data)
    share = wanted_bytes // CHANGED_CLUSTERS
    for cluster in range(CHANGED_CLUSTERS):
        room = total // CHANGED_CLUSTERS
        # Starting in the first half leaves room for the gaps, which take about as much as the extents.
        place = cluster * room + chance.randrange(room // 2)
        left = share
        while left >= PAGE_BYTES:
            low, high = CHANGED_EXTENT_BYTES
            length = min(left, int(low * (high / low) ** chance.random()))
            for offset, part in from_linear(data, page_down(place), page_down(length)):
                yield offset, part
                left -= part
            place += length + int(length * chance.uniform(0.25, 2))
            if length < PAGE_BYTES or place >= (cluster + 1) * room:
                break


def from_linear(data, place, length):
    """Turns a range of allocated space, counted without the holes, into ranges of the file."""
    for start, extent in data:
        if place < extent and length > 0:
            part = min(length, extent - place)
            yield start + place, part
            place, length = 0, length - part
        else:
            place -= extent


def page_down(value):
    """Rounds down to a whole page."""
    return value // PAGE_BYTES * PAGE_BYTES


def image_facts(name, image, compressibility=True):
    """Sizes of an image, and how far zstd -1 takes its data where that tool is installed.

    Its allocated bytes are those that SEEK_DATA finds: blocks set aside but never written hold nothing to back up.
    """
    with open(image, "rb") as file:
        allocated = sum(length for _, length in data_extents(file.fileno()))
    zstd1_bytes = zstd_size(image) if compressibility and shutil.which("zstd") else None
    return DataSet(name, str(image), False, os.path.getsize(image), allocated, zstd1_bytes=zstd1_bytes)


def zstd_size(image):
    """What `zstd -1` makes of the data extents of an image, in bytes."""
    packed = 0
    with open(image, "rb") as file, open(f"{image}.zst", "w+b") as sink:
        process = subprocess.Popen(["zstd", "-q", "-1", "-T2", "-c"], stdin=subprocess.PIPE, stdout=sink)
        for offset, length in blocks(data_extents(file.fileno()), READ_BYTES):
            process.stdin.write(os.pread(file.fileno(), length, offset))
        process.stdin.close()
        process.wait()
        packed = os.fstat(sink.fileno()).st_size
    os.unlink(f"{image}.zst")
    return packed
