"""Finds the peers, or installs the newest of each into a folder of its own; builds salvor."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
NAMES = ("restic", "kopia", "rustic", "borg")

# A module mirror may serve a release and yet refuse to say which is the newest; then these are taken.
GO_TOOLS = {
    "restic": ("github.com/restic/restic", "cmd/restic", "v0.19.1"),
    "kopia": ("github.com/kopia/kopia", "", "v0.21.1"),
}


class NotInstalled(Exception):
    """A tool is missing and could not be installed."""


def find(name, cache, may_install):
    """The path of a peer's program: $NAME, then the cache, then (borg) the PATH; else it is installed now."""
    if given := os.environ.get(name.upper()):
        return Path(given)
    cached = Path(cache) / "tools" / "bin" / name
    if cached.exists():
        return cached
    if name == "borg" and (found := shutil.which("borg")):
        return Path(found)
    if not may_install:
        raise NotInstalled(f"{name} is not installed (and --no-install was given)")
    print(f"installing {name} ...", flush=True)
    if name in GO_TOOLS:
        install_go(cached, *GO_TOOLS[name])
    elif name == "rustic":
        install_rustic(Path(cache))
    else:
        return install_borg()
    return cached


def install_go(target, module, package, fallback):
    """Builds a Go program in a module of ours: `go install` refuses modules that replace a dependency."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent.parent / f"build-{target.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    env = {**os.environ, "GOFLAGS": "-mod=mod", "GOWORK": "off"}
    version = newest_go(module, work, env) or fallback
    print(f"  {module} {version}", flush=True)
    fetched = json.loads(say_and_run(["go", "mod", "download", "-json", f"{module}@{version}"], work, env))
    its_own = json.loads(say_and_run(["go", "mod", "edit", "-json", fetched["GoMod"]], work, env))
    lines = ["module bench", f"go {its_own['Go']}", f"require {module} {version}"]
    lines += [go_replacement(entry) for entry in its_own.get("Replace") or () if "Version" in entry["New"]]
    (work / "go.mod").write_text("\n".join(lines) + "\n")
    say_and_run(["go", "build", "-o", target, f"{module}/{package}".rstrip("/")], work, env)
    shutil.rmtree(work)


def newest_go(module, work, env):
    """The newest version of a module, or None if the mirror does not tell."""
    listed = subprocess.run(
        ["go", "list", "-m", f"{module}@latest"],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout.split()[1] if listed.returncode == 0 else None


def go_replacement(entry):
    """One replace line of a go.mod, from the JSON that `go mod edit` gives."""
    old, new = entry["Old"], entry["New"]
    return f"replace {old['Path']} {old.get('Version', '')} => {new['Path']} {new['Version']}"


def install_rustic(cache):
    """Builds rustic with its own lock file."""
    env = {**os.environ, "CARGO_TARGET_DIR": str(cache / "tools" / "build-rustic")}
    say_and_run(["cargo", "install", "rustic-rs", "--locked", "--root", cache / "tools"], cache, env)
    shutil.rmtree(cache / "tools" / "build-rustic", ignore_errors=True)


def install_borg():
    """Installs Debian's borg."""
    if os.geteuid() != 0:
        raise NotInstalled("borg is missing: run 'apt-get install borgbackup' as root")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    say_and_run(["apt-get", "update", "-q"], "/", env)
    say_and_run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "borgbackup"], "/", env)
    return Path(shutil.which("borg"))


def build_salvor(build):
    """The salvor program: $SALVOR, or this checkout's release build."""
    if given := os.environ.get("SALVOR"):
        return Path(given)
    facts = say_and_run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], REPOSITORY_ROOT, os.environ, quiet=True
    )
    program = Path(json.loads(facts)["target_directory"]) / "release" / "salvor"
    if build:
        say_and_run(["cargo", "build", "--release", "-p", "salvor"], REPOSITORY_ROOT, os.environ)
    if not program.exists():
        raise NotInstalled(f"{program} does not exist: 'cargo build --release -p salvor' makes it")
    return program


def version(name, program):
    """The version of a program as its build says it."""
    if name in GO_TOOLS and shutil.which("go"):
        # A Go program built by hand does not know its version, but its module information does.
        shown = subprocess.run(
            ["go", "version", "-m", program], capture_output=True, text=True, check=False
        ).stdout
        if found := re.search(rf"\bmod\s+{re.escape(GO_TOOLS[name][0])}\s+v(\S+)", shown):
            return found.group(1)
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d+\S*", shown)
    return found.group(0) if found else "unknown"


def say_and_run(argv, cwd, env, quiet=False):
    """Prints a command, runs it, and returns what it printed; its errors go to the terminal."""
    words = [str(word) for word in argv]
    if not quiet:
        print(f"  $ {' '.join(words)}", flush=True)
    done = subprocess.run(words, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise NotInstalled(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-1000:]}")
    return done.stdout
