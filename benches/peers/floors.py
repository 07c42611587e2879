"""What salvor must reach beside the best peer, and whether it did."""

from dataclasses import dataclass

from tools import PEERS

RSS_LIMIT_BYTES = 300 << 20
DEVICE_SHARE = 0.85
CPU_SHARE = 0.5
GROWTH_LIMIT = 1.3
BLOCKS_LIMIT_S = 10
SIZE_SLACK = 1.03

RATE_FLOORS = {
    ("image", "first"): 3.0,
    ("image", "unchanged"): 2.5,
    ("image", "restore"): 2.0,
    ("random", "first"): 3.0,
    ("tree", "first"): 2.0,
    ("tree", "unchanged"): 1.5,
    ("tree", "restore"): 1.5,
}


@dataclass
class Check:
    """One floor. `passed` is None where a figure is missing."""

    what: str
    measured: str
    floor: str
    passed: bool | None


def rate(row):
    """MB/s by the bytes that count for the data set."""
    return row["rate_bytes"] / 1e6 / row["wall_s"]


def cpu_per_gb(row):
    """CPU seconds per 10^9 bytes."""
    return (row["user_s"] + row["sys_s"]) / (row["rate_bytes"] / 1e9)


def best_peer(rows, data, phase, figure, best):
    """(name, figure) of the peer that does best in a phase, or None if no peer ran."""
    found = [(name, figure(rows[name, data, phase])) for name in PEERS if (name, data, phase) in rows]
    return best(found, key=lambda item: item[1]) if found else None


def checks(rows, device_rate, changed_bytes):
    """All floors, in the order of the goals. `rows` maps (tool, data, phase) to the medians."""
    found = []
    for (data, phase), factor in RATE_FLOORS.items():
        found += versus_peer(rows, data, phase, factor)
    found.append(versus_device(rows, "image", "unchanged", device_rate))
    found.append(stored(rows, "salvor", "borg"))
    found.append(stored(rows, "salvor-3", "restic"))
    found += memory(rows)
    found += incremental(rows, device_rate, changed_bytes)
    return found


def versus_peer(rows, data, phase, factor):
    """Rate and CPU of one phase against the best peer's."""
    mine = rows.get(("salvor", data, phase))
    fastest = best_peer(rows, data, phase, rate, max)
    leanest = best_peer(rows, data, phase, cpu_per_gb, min)
    name = f"{data}, {phase}"
    if not (mine and fastest and leanest):
        return [
            Check(f"{name}: rate", "–", f"≥ {factor:g} × the best peer", None),
            Check(f"{name}: CPU", "–", f"≤ {CPU_SHARE:g} × the best peer", None),
        ]
    times = rate(mine) / fastest[1]
    share = cpu_per_gb(mine) / leanest[1]
    return [
        Check(f"{name}: rate", f"{times:.2f} × {fastest[0]}", f"≥ {factor:g} ×", times >= factor),
        Check(f"{name}: CPU", f"{share:.2f} × {leanest[0]}", f"≤ {CPU_SHARE:g} ×", share <= CPU_SHARE),
    ]


def versus_device(rows, data, phase, device_rate):
    """Whether a phase runs as fast as plain reads of the device."""
    mine = rows.get(("salvor", data, phase))
    if not (mine and device_rate):
        return Check(f"{data}, {phase}: of the device's rate", "–", f"≥ {DEVICE_SHARE:.0%}", None)
    share = rate(mine) / device_rate
    return Check(
        f"{data}, {phase}: of the device's rate",
        f"{share:.0%}",
        f"≥ {DEVICE_SHARE:.0%}",
        share >= DEVICE_SHARE,
    )


def stored(rows, mine, peer):
    """The stored size of the first image."""
    left, right = rows.get((mine, "image", "first")), rows.get((peer, "image", "first"))
    what = f"image, first: stored by {mine}"
    floor = f"≤ {SIZE_SLACK:g} × {peer}"
    if not (left and right):
        return Check(what, "–", floor, None)
    ratio = left["repo_bytes"] / right["repo_bytes"]
    return Check(what, f"{ratio:.3f} × {peer}", floor, ratio <= SIZE_SLACK)


def memory(rows):
    """The peak memory of salvor at its defaults over all phases of a data set."""
    peaks = {}
    for (tool, data, phase), row in rows.items():
        if tool == "salvor":
            peaks[data] = max(peaks.get(data, (0, "")), (row["max_rss_bytes"], phase))
    return [
        Check(
            f"{data}: peak memory",
            f"{peak / 2**20:.0f} MiB ({phase})",
            f"≤ {RSS_LIMIT_BYTES >> 20} MiB",
            peak <= RSS_LIMIT_BYTES,
        )
        for data, (peak, phase) in peaks.items()
    ] or [Check("peak memory", "–", f"≤ {RSS_LIMIT_BYTES >> 20} MiB", None)]


def incremental(rows, device_rate, changed_bytes):
    """The changed image: by the list of changed blocks in seconds, else at the device's rate, and little stored."""
    blocks, read = rows.get(("salvor", "changed", "blocks")), rows.get(("salvor", "changed", "read"))
    found = [versus_device(rows, "changed", "read", device_rate)]
    if not (blocks and read and changed_bytes):
        return [
            *found,
            Check("changed, blocks: time and growth", "–", f"≤ {BLOCKS_LIMIT_S} s, ≤ {GROWTH_LIMIT} ×", None),
        ]
    seconds = blocks["wall_s"]
    found.append(
        Check("changed, blocks: time", f"{seconds:.1f} s", f"≤ {BLOCKS_LIMIT_S} s", seconds <= BLOCKS_LIMIT_S)
    )
    for phase, row in (("blocks", blocks), ("read", read)):
        growth = row["grown_bytes"] / changed_bytes
        found.append(
            Check(
                f"changed, {phase}: growth by changed bytes",
                f"{growth:.2f} ×",
                f"≤ {GROWTH_LIMIT} ×",
                growth <= GROWTH_LIMIT,
            )
        )
    return found
