"""Runs one command and says what it cost.

Wall time, CPU and peak memory come from wait4, so they cover the command and every child it waited for.
Keep this process small: Linux counts the memory of the process that forks towards the peak of what it starts.
"""

import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class CommandFailed(Exception):
    """A command ended with an exit code other than 0, or ran out of time."""


@dataclass
class Cost:
    """What one command cost. `other_cpu_s` is what everything else on the machine used meanwhile."""

    wall_s: float
    sync_s: float
    user_s: float
    sys_s: float
    max_rss_bytes: int
    read_bytes: int
    written_bytes: int
    other_cpu_s: float

    @property
    def cpu_s(self):
        """User and system time of the command, in seconds."""
        return self.user_s + self.sys_s

    def as_dict(self):
        """Plain values, for JSON."""
        return asdict(self)


def drop_page_cache():
    """Writes back and empties the page cache. Needs root: without it the figures would be those of memory."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as error:
        raise CommandFailed(f"cannot drop the page cache ({error}); run as root, or give --warm") from error


def busy_cpu_s():
    """CPU seconds the whole machine has spent on anything but idling and waiting, since it started."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


def run(argv, *, cwd, env, log, timeout_s, sync_path):
    """Runs `argv`, its output to the file `log`, and returns its Cost.

    `sync_s` is how long the file system of `sync_path` then needs to write back what the command left in memory.
    """
    with open(log, "wb") as output:
        busy_before = busy_cpu_s()
        started = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in argv],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status, usage = wait(process, started + timeout_s)
        wall_s = time.monotonic() - started
        busy_s = busy_cpu_s() - busy_before
    if status != 0:
        raise CommandFailed(f"{' '.join(map(str, argv))}: exit code {status}\n{tail(log)}")
    own_s = usage.ru_utime + usage.ru_stime
    return Cost(
        wall_s=wall_s,
        sync_s=sync_seconds(sync_path),
        user_s=usage.ru_utime,
        sys_s=usage.ru_stime,
        max_rss_bytes=usage.ru_maxrss * 1024,
        read_bytes=usage.ru_inblock * 512,
        written_bytes=usage.ru_oublock * 512,
        other_cpu_s=max(0.0, busy_s - own_s),
    )


def wait(process, deadline):
    """Waits for `process` and returns its exit code and resource usage; ends its whole group at the deadline."""
    previous = signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, max(1.0, deadline - time.monotonic()))
    try:
        _pid, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage


def sync_seconds(path):
    """Writes back the file system that holds `path`; returns the seconds it took."""
    started = time.monotonic()
    subprocess.run(["sync", "-f", str(path)], check=True)
    return time.monotonic() - started


def tail(log, limit=2000):
    """The end of a log file, as text."""
    return Path(log).read_bytes()[-limit:].decode(errors="replace")


def in_child(function, *arguments):
    """Calls `function` in a forked child, so that the memory it needs is not counted to the tools.

    Returns nothing; what went wrong in the child is raised here, with its message.
    """
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        except (
            Exception
        ) as error:  # the child ends here: its parent is told, and nothing of ours is cleaned up twice
            os.write(sending, f"{type(error).__name__}: {error}".encode(errors="replace")[:4000])
        finally:
            os._exit(code)
    os.close(sending)
    with open(receiving, "rb") as pipe:
        message = pipe.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise CommandFailed(message or f"{function.__name__} ended with exit code {code}")
