"""Tables, targets and a picture of what was measured."""

from __future__ import annotations

import html
from typing import Any

from variants import CELERY, CONTROL, INLINE, PROCESS, UPSTREAM

PLAIN, OURS, THEIRS = CELERY.name, PROCESS.name, UPSTREAM.name

# What the exporter process has to manage on one core, spans a second.
EXPORTER_SPANS = 80_000

# What a worker may execute more, as a share of what upstream's does.
INSTRUCTIONS = {
    "a no-op task": 0.35,
    "a task with ten inner spans": 0.5,
    "an unsampled task": 0.4,
    "a publish": 0.5,
}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(part: float | None) -> str:
    return "-" if part is None else f"{part:.1%}"


def cpu_table(found: dict[str, dict[str, Any]]) -> str:
    """Return the table of one scene."""
    theirs, plain = found.get(THEIRS), found[PLAIN]
    rows = []
    for name, each in found.items():
        ratios = ["-", "-"]
        if theirs and name != PLAIN:
            total = each["added"] + each["exporter"]
            ratios = [
                f"{part / theirs['added']:.2f}" for part in (each["added"], total)
            ]
        rows.append(
            [
                name, f"{each['main']:.0f}", f"{each['children']:.0f}",
                f"{each['exporter']:.0f}", f"{each['added']:.0f} ± {each['spread']:.0f}",
                *ratios, f"{each['rate'] / plain['rate']:.2f}", share(each["kept"]),
                "-" if each["wire"] is None else f"{each['wire']:.0f}",
            ]
        )  # fmt: skip
    head = [
        "", "main, µs", "child, µs", "exporter, µs", "added to the worker, µs",
        "of upstream's", "with the exporter", "throughput", "spans kept", "bytes a span",
    ]  # fmt: skip
    return table(head, rows)


def lifecycle_table(found: dict[str, dict[str, Any]]) -> str:
    plain = found[PLAIN]
    rows = [
        [
            name,
            *(
                f"{each[what]:.2f} ({each[what] / plain[what]:.2f})"
                for what in ("ready", "stop", "recycled")
            ),
            share(each["recycled late"]),
            str(each["connections"]),
        ]
        for name, each in found.items()
    ]
    head = [
        "",
        "start to ready, s",
        "stop, s",
        "recycled child, s",
        "of them late",
        "connections of 8 children",
    ]
    return table(head, rows)


def memory_table(found: dict[str, dict[str, Any]]) -> str:
    counts = list(found[PLAIN]["memory"])
    rows = []
    for name, each in found.items():
        memory = each["memory"]
        rows.append(
            [name, *(f"{sum(memory[count]):.0f}" for count in counts),
             f"{a_child(found, name):.1f}", f"{memory[counts[0]][1]:.0f}"]
        )  # fmt: skip
    head = ["PSS, MB", *(f"{count} children" for count in counts),
            "a child over plain Celery's", "the exporter process"]  # fmt: skip
    return table(head, rows)


def a_child(found: dict[str, dict[str, Any]], name: str) -> float:
    """Return the MB that each further child takes over one of plain Celery."""

    def slope(memory: dict[Any, Any]) -> float:
        counts = list(memory)
        low, high = counts[1], counts[-1]
        return float(memory[high][0] - memory[low][0]) / (int(high) - int(low))

    return slope(found[name]["memory"]) - slope(found[PLAIN]["memory"])


def losses_table(found: dict[str, dict[str, str]]) -> str:
    """Return how many run spans arrive, by what ends and variant."""
    names = list(next(iter(found.values())))
    rows = [
        [scene, *(by_name.get(name, "-") for name in names)]
        for scene, by_name in found.items()
    ]
    return table(["run spans that arrive", *names], rows)


def publish_table(found: dict[str, float]) -> str:
    plain, theirs = found[PLAIN], found.get(THEIRS)
    rows = [
        [name, f"{each:.0f}", f"{each - plain:.0f}",
         f"{(each - plain) / (theirs - plain):.2f}" if theirs and name != PLAIN else "-"]
        for name, each in found.items()
    ]  # fmt: skip
    return table(["", "a publish, µs", "added, µs", "of upstream's"], rows)


def targets(data: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return what was wanted: what, how much, what was measured, whether it is met."""
    noop, life = data["cpu"]["a no-op task"], data["lifecycle"]
    ours, theirs, plain = noop[OURS], noop[THEIRS], noop[PLAIN]
    many = data["cpu, 32 children"]["a no-op task"]
    exporter = data["exporter"]
    counted, publish = data["instructions of upstream's"], data["publish"]
    inline = noop[INLINE.name]["added"] / theirs["added"]
    published = (publish[OURS] - publish[PLAIN]) / (publish[THEIRS] - publish[PLAIN])
    worker = ours["added"] / theirs["added"]
    whole = (ours["added"] + ours["exporter"]) / theirs["added"]
    at_32 = many[OURS]["added"] / many[THEIRS]["added"]
    rate = ours["rate"] / plain["rate"]
    child = a_child(life, OURS)
    weight = max(each[1] for each in life[OURS]["memory"].values())
    ready, recycled = (
        life[OURS][what] / life[PLAIN][what] for what in ("ready", "recycled")
    )
    fast = exporter["spans a second of a core"]
    is_whole = exporter["received"] == exporter["made"]
    return [
        *(
            (f"instructions added by {scene}, of upstream's", f"≤ {wanted}", f"{counted[scene]:.2f}", counted[scene] <= wanted)
            for scene, wanted in INSTRUCTIONS.items()
        ),
        ("added worker CPU a no-op task, of upstream's", "≤ 0.35", f"{worker:.2f}", worker <= 0.35),
        ("the same with the exporter process", "≤ 0.5", f"{whole:.2f}", whole <= 0.5),
        ("the same inline", "≤ 0.9", f"{inline:.2f}", inline <= 0.9),
        ("CPU added by a publish, of upstream's", "≤ 0.5", f"{published:.2f}", published <= 0.5),
        ("the same with 32 children, without the exporter process", "≤ 0.5", f"{at_32:.2f}", at_32 <= 0.5),
        ("throughput, of plain Celery's", "≥ 0.95", f"{rate:.2f}", rate >= 0.95),
        ("memory a child over plain Celery's, MB", "≤ 0", f"{child:.1f}", child <= 0),
        ("memory of the exporter process, MB", "≤ 42", f"{weight:.0f}", weight <= 42),
        ("start to ready, of plain Celery's", "≤ 1.05", f"{ready:.2f}", ready <= 1.05),
        ("a recycled child, of plain Celery's", "≤ 1.05", f"{recycled:.2f}", recycled <= 1.05),
        (
            "spans a second of the exporter process on one core, none dropped",
            f"≥ {EXPORTER_SPANS:,}",
            f"{fast:,.0f}, {exporter['received']:,.0f} of {exporter['made']:,.0f} received",
            fast >= EXPORTER_SPANS and is_whole,
        ),
        ("spans kept", "100 %", share(ours["kept"]), ours["kept"] == 1),
    ]  # fmt: skip


def target_table(data: dict[str, Any]) -> str:
    rows = [
        [what, wanted, found, "met" if is_met else "**not met**"]
        for what, wanted, found, is_met in targets(data)
    ]
    return table(["target", "wanted", "measured", ""], rows)


def markdown(data: dict[str, Any]) -> str:
    """Return all of it."""
    parts = [data["about"], "### Targets", target_table(data)]
    for scene, found in data["cpu"].items():
        parts += [f"### Worker CPU: {scene}, one child", cpu_table(found)]
    for scene, found in data["cpu, 32 children"].items():
        parts += [f"### Worker CPU: {scene}, 32 children", cpu_table(found)]
    parts += [
        "### Instructions, in thousands a task",
        data["instructions"],
        "### Start, stop, recycled child (and as ratios of plain Celery's)",
        lifecycle_table(data["lifecycle"]),
        "### Memory",
        memory_table(data["lifecycle"]),
        "### What arrives when something ends",
        losses_table(data["losses"]),
        "### Publish",
        publish_table(data["publish"]),
        "### The exporter process at its limit",
        table(
            list(data["exporter"]), [[f"{v:,.1f}" for v in data["exporter"].values()]]
        ),
    ]
    return "\n\n".join(parts) + "\n"


BAR, GAP, LEFT, WIDTH = 18, 12, 190, 460


def svg(found: dict[str, Any]) -> str:
    """Draw what a no-op task adds: in the worker, and in the exporter process."""
    left_out = (PLAIN, CONTROL.name)
    bars = {name: each for name, each in found.items() if name not in left_out}
    most = max(each["added"] + each["exporter"] for each in bars.values())
    height = len(bars) * (BAR + GAP) + 60
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img"'
        ' font-family="sans-serif" font-size="13">',
        "<title>CPU that a no-op task adds to plain Celery</title>",
        f'<rect width="720" height="{height}" fill="#fff"/>',
        '<text x="12" y="22" font-size="15">CPU added to a no-op task, µs:'
        ' <tspan fill="#1f6feb">worker</tspan>,'
        ' <tspan fill="#8a8f98">exporter process</tspan></text>',
    ]
    for index, (name, each) in enumerate(bars.items()):
        y = 40 + index * (BAR + GAP)
        worker = max(0.0, each["added"]) / most * WIDTH
        exporter = each["exporter"] / most * WIDTH
        weight = "bold" if name in (OURS, INLINE.name) else "normal"
        total = f"{each['added']:.0f}" + (
            f" + {each['exporter']:.0f}" if each["exporter"] else ""
        )
        lines += [
            f'<text x="12" y="{y + 14}" font-weight="{weight}">{html.escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{worker:.1f}" height="{BAR}" fill="#1f6feb"/>',
            f'<rect x="{LEFT + worker:.1f}" y="{y}" width="{exporter:.1f}" height="{BAR}" fill="#8a8f98"/>',
            f'<text x="{LEFT + worker + exporter + 6:.1f}" y="{y + 14}">{total}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
