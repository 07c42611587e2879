"""One tool on one data set: first backup, unchanged backup, restore. What came back different is not reported."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import measure
import verify
from extents import direct_read_rate, direct_write_rate

DEVICE_READS = {"1 reader, 4 MiB": (1, 4 << 20), "4 readers, 1 MiB": (4, 1 << 20)}
DEVICE_WRITE_BYTES = 2 << 30
SESSION_FOLDERS = ("work", "kept", "target", "source")


@dataclass
class Bench:
    """Where the runs take place and how."""

    scratch: Path
    timeout_s: float
    cold: bool = True

    @property
    def target(self):
        """The folder that restores go into."""
        return self.scratch / "target"

    def clean(self):
        """Removes all that runs left. The folder holds nothing but what they put there."""
        for name in (*SESSION_FOLDERS, "aside"):
            shutil.rmtree(self.scratch / name, ignore_errors=True)

    def clear(self, data):
        """Makes room for the next session. What one left of a tree is only moved aside, to be removed after all runs.

        For up to five minutes ext4 passes over each inode that was freed just before whenever it makes a file.
        Removed at once, one tool's files would cost the next tool seconds of CPU time.
        """
        for name in SESSION_FOLDERS:
            folder = self.scratch / name
            if not data.is_tree:
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.exists():
                aside = self.scratch / "aside"
                aside.mkdir(exist_ok=True)
                folder.rename(aside / str(len(os.listdir(aside))))

    def ready(self):
        """Brings the machine to the state every phase starts from."""
        if self.cold:
            measure.drop_page_cache()


class Session:
    """The phases of one tool on one data set, in a repository of their own."""

    def __init__(self, bench, tool, data, changed, run):
        self.bench, self.tool, self.data, self.changed, self.run = bench, tool, data, changed, run
        self.results = []
        self.folder, self.source = self.place(data)

    def place(self, data):
        """The folder the tools work in and the name of the source there.

        An image is given to them as a hard link, so that another version of it can stand at the same path.
        """
        if data.is_tree:
            return Path(data.path).parent, Path(data.path).name
        folder = self.bench.scratch / "source"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / "disk.img"
        link.unlink(missing_ok=True)
        os.link(data.path, link)
        # A new time makes every tool read the image again, as it must when a disk was in use.
        os.utime(link)
        return folder, link.name

    def all_phases(self):
        """Runs every phase and returns the results. Raises if a command fails or the data comes back different."""
        self.tool.prepare()
        self.backup(self.data, "first")
        if not self.data.is_tree:
            self.place(self.data)
        self.backup(self.data, "unchanged")
        self.restore(self.data, "restore")
        if self.changed:
            self.changed_phases()
        return self.results

    def changed_phases(self):
        """Backs up the changed image: reading it all, and by the list of changed blocks where the tool takes one."""
        self.place(self.changed)
        if self.tool.reads_changed_blocks:
            kept = self.bench.scratch / "kept"
            self.tool.work.rename(kept)
            shutil.copytree(kept, self.tool.work, symlinks=True)
            self.backup(self.changed, "blocks", self.changed.changed_blocks)
            self.restore(self.changed, "restore-blocks")
            shutil.rmtree(self.tool.work)
            kept.rename(self.tool.work)
        self.backup(self.changed, "read")
        self.restore(self.changed, "restore")

    def backup(self, data, phase, changed_blocks=None):
        """One timed backup."""
        before = stored_bytes(self.tool.repo)
        self.timed(data, phase, self.tool.backup(self.source, changed_blocks), self.folder)
        stored = stored_bytes(self.tool.repo)
        self.results[-1] |= {"repo_bytes": stored, "grown_bytes": stored - before}

    def restore(self, data, phase):
        """One timed restore into an empty folder, and the comparison with the original."""
        target = self.bench.target
        target.mkdir(parents=True)
        self.timed(data, phase, self.tool.restore(self.source, target), target)
        restored = self.tool.restored(self.source, target)
        measure.in_child(verify.same_tree if data.is_tree else verify.same_image, data.path, str(restored))
        self.results[-1] |= {"repo_bytes": stored_bytes(self.tool.repo)}
        if not data.is_tree:
            self.results[-1] |= {"target_bytes": restored.stat().st_blocks * 512}
            shutil.rmtree(target)

    def timed(self, data, phase, command, folder):
        """Runs one command from a cold cache and keeps what it cost."""
        self.bench.ready()
        load = os.getloadavg()[0]
        cost = measure.run(
            command,
            cwd=folder,
            env=self.tool.env(),
            log=self.tool.work / f"{phase}.log",
            timeout_s=self.bench.timeout_s,
            sync_path=self.bench.scratch,
        )
        self.results.append(
            {
                "tool": self.tool.name,
                "data": data.name,
                "phase": phase,
                "run": self.run,
                "rate_bytes": data.rate_bytes,
                "load": load,
                **cost.as_dict(),
            }
        )
        rate = data.rate_bytes / 1e6 / cost.wall_s
        print(
            f"  {self.tool.name:10} {data.name:8} {phase:14} {cost.wall_s:7.1f} s  {rate:7.0f} MB/s"
            f"  cpu {cost.cpu_s:6.1f} s  rss {cost.max_rss_bytes / 2**20:6.0f} MiB  others {cost.other_cpu_s:5.1f} s",
            flush=True,
        )


def stored_bytes(folder):
    """The sizes of all files below a folder, added up."""
    return sum(
        (Path(base) / name).lstat().st_size for base, _below, names in os.walk(folder) for name in names
    )


def measure_device(bench, image, when, run):
    """What the device gives to plain O_DIRECT reads of the image and to O_DIRECT writes, in MB/s."""
    found = {"when": when, "run": run}
    for name, (readers, block_bytes) in DEVICE_READS.items():
        bench.ready()
        found[name] = direct_read_rate(image.path, readers, block_bytes)
    total = min(DEVICE_WRITE_BYTES, image.rate_bytes >> 20 << 20)
    found["write"] = direct_write_rate(bench.scratch / "device-test", total, 4 << 20)
    rates = "  ".join(f"{name} {rate:.0f} MB/s" for name, rate in found.items() if isinstance(rate, float))
    print(f"  device     {image.name:8} {when:14} {rates}", flush=True)
    return found
