"""How each tool is told to do the same four things: make a repository, back up, back up again, restore.

All encrypt. Compression is zstd at each tool's fastest or default level. Sparse images are restored as sparse files.
A tool works in a folder of its own: `repo` (counted), and `home` with its caches and settings (not counted).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

PASSWORD = "a benchmark's passphrase is no secret"
SALVOR_VARIANTS = {"salvor": [], "salvor-3": ["--compression", "3"]}
PEERS = ("restic", "kopia", "rustic", "borg")


class Tool:
    """A backup program. A source is named relative to the folder it is in, which is the working directory."""

    reads_changed_blocks = False

    def __init__(self, name, program, work):
        self.name = name
        self.program = Path(program)
        self.work = Path(work)
        self.repo = self.work / "repo"
        self.home = self.work / "home"

    def env(self):
        """The environment of every command: nothing of the user's own settings."""
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "TMPDIR": str(self.home / "tmp"),
        }

    def prepare(self):
        """Makes an empty repository and empty caches. Not timed."""
        shutil.rmtree(self.work, ignore_errors=True)
        (self.home / "tmp").mkdir(parents=True)
        for command in self.setup():
            self.ask(command)

    def ask(self, command):
        """Runs a command that is not timed and returns what it printed."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.work,
            env=self.env(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(
                f"{' '.join(map(str, command))}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-1500:]}"
            )
        return done.stdout

    def setup(self):
        """The commands that make the repository."""
        raise NotImplementedError

    def backup(self, source, changed_blocks=None):
        """The command that backs up `source`."""
        raise NotImplementedError

    def restore(self, source, target):
        """The command that restores the newest backup of `source` into the empty folder `target`, run in `target`."""
        raise NotImplementedError

    def restored(self, source, target):
        """Where `restore` puts it."""
        return Path(target) / source


class Restic(Tool):
    """restic: `--compression auto` is zstd's fastest level with a test for data that does not compress."""

    def env(self):
        return {**super().env(), "RESTIC_REPOSITORY": str(self.repo), "RESTIC_PASSWORD": PASSWORD}

    def setup(self):
        return [[self.program, "init"]]

    def backup(self, source, changed_blocks=None):
        return [self.program, "backup", "--compression", "auto", source]

    def restore(self, source, target):
        return [self.program, "restore", "latest", "--sparse", "--target", target]


class Kopia(Tool):
    """kopia with the policy zstd-fastest."""

    def env(self):
        return {
            **super().env(),
            "KOPIA_PASSWORD": PASSWORD,
            "KOPIA_CHECK_FOR_UPDATES": "false",
            "KOPIA_CONFIG_PATH": str(self.home / "kopia.config"),
            "KOPIA_CACHE_DIRECTORY": str(self.home / "kopia-cache"),
            "KOPIA_LOG_DIR": str(self.home / "kopia-log"),
        }

    def setup(self):
        self.repo.mkdir()
        # By default kopia leaves out folders that are marked as caches; real trees have such folders.
        policy = ["--compression", "zstd-fastest", "--ignore-cache-dirs", "false"]
        return [
            [self.program, "repository", "create", "filesystem", "--path", self.repo],
            [self.program, "policy", "set", "--global", *policy],
        ]

    def backup(self, source, changed_blocks=None):
        return [self.program, "snapshot", "create", source]

    def restore(self, source, target):
        listed = json.loads(self.ask([self.program, "snapshot", "list", "--all", "--json"]))
        newest = max(listed, key=lambda snapshot: snapshot["startTime"])
        return [
            self.program,
            "snapshot",
            "restore",
            newest["id"],
            Path(target) / source,
            "--write-sparse-files",
        ]


class Rustic(Tool):
    """rustic: zstd at its default level."""

    def env(self):
        return {**super().env(), "RUSTIC_REPOSITORY": str(self.repo), "RUSTIC_PASSWORD": PASSWORD}

    def setup(self):
        return [[self.program, "init"]]

    def backup(self, source, changed_blocks=None):
        return [self.program, "backup", source]

    def restore(self, source, target):
        return [self.program, "restore", "latest", target, "--sparse", "by-content"]


class Borg(Tool):
    """borg: `--compression zstd,1`, keys in the repository, BLAKE2."""

    archives = 0

    def env(self):
        return {
            **super().env(),
            "BORG_REPO": str(self.repo),
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_BASE_DIR": str(self.home),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }

    def setup(self):
        return [[self.program, "init", "--encryption", "repokey-blake2"]]

    def backup(self, source, changed_blocks=None):
        self.archives += 1
        return [self.program, "create", "--compression", "zstd,1", f"::archive-{self.archives}", source]

    def restore(self, source, target):
        return [self.program, "extract", "--sparse", f"::archive-{self.archives}"]


class Salvor(Tool):
    """Salvor with its defaults, or with the options of a variant on every backup."""

    reads_changed_blocks = True

    def __init__(self, name, program, work, options):
        super().__init__(name, program, work)
        self.options = options
        self.passphrase_file = self.home / "passphrase"

    def env(self):
        return {
            **super().env(),
            "SALVOR_REPO": str(self.repo),
            "SALVOR_PASSPHRASE_FILE": str(self.passphrase_file),
        }

    def setup(self):
        self.passphrase_file.write_text(PASSWORD + "\n")
        self.passphrase_file.chmod(0o600)
        return [[self.program, "init"]]

    def backup(self, source, changed_blocks=None):
        command = [self.program, "backup", source, "--name", "bench", *self.options]
        return [*command, "--changed-blocks", changed_blocks] if changed_blocks else command

    def restore(self, source, target):
        return [self.program, "restore", "bench@latest", Path(target) / source]


def make(name, program, work, variants):
    """The tool of that name."""
    if name in variants:
        return Salvor(name, program, work, variants[name])
    return {"restic": Restic, "kopia": Kopia, "rustic": Rustic, "borg": Borg}[name](name, program, work)
