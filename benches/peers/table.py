"""Turns results into tables, as plain text or Markdown."""

import statistics

import floors
from tools import PEERS

NOISY_SHARE = 0.1


def medians(results):
    """One row per (tool, data, phase): the median of every figure over the runs, and the highest peak of memory."""
    groups = {}
    for result in results:
        groups.setdefault((result["tool"], result["data"], result["phase"]), []).append(result)
    rows = {}
    for key, group in groups.items():
        figures = {
            name for result in group for name, value in result.items() if isinstance(value, (int, float))
        }
        row = {
            name: statistics.median(result[name] for result in group if name in result) for name in figures
        }
        row["max_rss_bytes"] = max(result["max_rss_bytes"] for result in group)
        row["walls_s"] = sorted(result["wall_s"] for result in group)
        rows[key] = row
    return rows


def device_rates(report):
    """The median of each device figure over all times it was taken."""
    names = {name for found in report["device"] for name, value in found.items() if isinstance(value, float)}
    return {name: statistics.median(found[name] for found in report["device"]) for name in sorted(names)}


def best_device_read(rates):
    """The highest read rate of the device, or None if it was not measured."""
    return max((rate for name, rate in rates.items() if name != "write"), default=None)


def render(report, markdown):
    """The whole report as text."""
    rows = medians(report["results"])
    parts = [about(report)]
    names = list(dict.fromkeys(data for _tool, data, _phase in rows))
    for data in names:
        parts.append(
            heading(data_line(report, data), markdown)
            + layout(HEADER, phase_rows(rows, data, report), markdown)
        )
    if any(tool == "salvor" for tool, _data, _phase in rows):
        parts.append(floor_table(report, markdown))
    if report["failures"]:
        parts.append(heading("Failed", markdown) + "\n".join(f"- {text}" for text in report["failures"]))
    return "\n\n".join(parts) + "\n"


def floor_table(report, markdown):
    """The list of floors, each passed or failed."""
    marks = {True: "pass", False: "FAIL", None: "not measured"}
    lines = [[check.what, check.measured, check.floor, marks[check.passed]] for check in checks(report)]
    return heading("Floors", markdown) + layout(["what", "measured", "floor", ""], lines, markdown)


def checks(report):
    """Every floor with what was measured."""
    changed_bytes = report["data"].get("changed", {}).get("changed_bytes", 0)
    return floors.checks(medians(report["results"]), best_device_read(device_rates(report)), changed_bytes)


def about(report):
    """Where, when and with what it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    device = ", ".join(f"{name} {rate:.0f}" for name, rate in device_rates(report).items())
    lines = [f"{report['machine']}; {report['started']}; median of {report['runs']} run(s)", versions]
    if report["scale"] != 1:
        lines.append(f"data sets scaled by {report['scale']:g}: the floors are meant for full size")
    if device:
        lines.append(f"device with O_DIRECT, MB/s: {device}")
    if not report["cold"]:
        lines.append("the page cache was NOT dropped: these figures are those of memory")
    return "\n\n".join(lines)


def data_line(report, data):
    """The heading of one data set."""
    return report["data"].get(data, {}).get("text", data)


def heading(text, markdown):
    """A heading above a table."""
    return f"### {text}\n\n" if markdown else f"{text}\n"


HEADER = ["phase", "tool", "MB/s", "seconds", "+ sync", "CPU s/GB", "peak MiB", "repo MB", "grown MB", ""]


def phase_rows(rows, data, report):
    """The lines of one data set: every phase with its tools, then salvor's ratio to the best peer."""
    lines = []
    phases = list(dict.fromkeys(phase for _tool, name, phase in rows if name == data))
    tools = list(dict.fromkeys(tool for tool, name, _phase in rows if name == data))
    tools.sort(key=lambda tool: (tool in PEERS, tool))
    for phase in phases:
        lines += [
            tool_row(phase, tool, rows[tool, data, phase], report)
            for tool in tools
            if (tool, data, phase) in rows
        ]
        lines += ratio_row(rows, data, phase)
    return lines


def tool_row(phase, tool, row, report):
    """One line: a tool in a phase. 'noisy' where others took more than a tenth of the machine."""
    noisy = row["other_cpu_s"] > NOISY_SHARE * row["wall_s"] * report["cores"]
    spread = f"{row['walls_s'][0]:.1f}–{row['walls_s'][-1]:.1f}" if len(row["walls_s"]) > 1 else ""
    return [
        phase,
        tool,
        f"{floors.rate(row):.0f}",
        f"{row['wall_s']:.1f}",
        f"{row['sync_s']:.1f}",
        f"{floors.cpu_per_gb(row):.2f}",
        f"{row['max_rss_bytes'] / 2**20:.0f}",
        f"{row['repo_bytes'] / 1e6:.0f}",
        f"{row['grown_bytes'] / 1e6:.1f}" if "grown_bytes" in row else "",
        " ".join(filter(None, [spread, "noisy" if noisy else ""])),
    ]


def ratio_row(rows, data, phase):
    """Salvor beside the best peer of each column; nothing where one of them is missing."""
    mine = rows.get(("salvor", data, phase))
    columns = [
        (floors.rate, max),
        (lambda row: row["wall_s"], min),
        (lambda row: row["wall_s"] + row["sync_s"], min),
        (floors.cpu_per_gb, min),
        (lambda row: row["max_rss_bytes"], min),
        (lambda row: row["repo_bytes"], min),
    ]
    found = [floors.best_peer(rows, data, phase, figure, best) for figure, best in columns]
    if not mine or not all(found):
        return []
    ratios = [
        f"{figure(mine) / best[1]:.2f} ×" if best[1] else ""
        for (figure, _), best in zip(columns, found, strict=True)
    ]
    return [[phase, "salvor / best peer", *ratios, "", found[0][0]]]


def layout(header, lines, markdown):
    """Lines of cells as a table; the first two columns to the left, figures to the right."""
    if markdown:
        rule = ["---" if column < 2 else "---:" for column in range(len(header))]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    shown = []
    for line in [header, *lines]:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)
