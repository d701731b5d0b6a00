"""All of it, in one run on one machine: make bench

    python bench/run.py [ROUNDS]            # everything: docs/benchmarks.*
    python bench/run.py --quick             # a no-op task's CPU alone, three variants
    python bench/run.py --losses            # what arrives when something ends, alone
    python bench/run.py --counted           # instructions, and the exporter process, alone

Needs redis-server. Writes docs/benchmarks.json and docs/benchmarks.svg, and the tables
into docs/benchmarks.md. Timings are of this machine: read the ratios.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cpu
import exporter
import instructions
import lifecycle
import losses
import publish
import report
from variants import (
    BESIDE,
    CELERY,
    CONTROL,
    INLINE,
    PROCESS,
    ROOT,
    UPSTREAM,
    Variant,
    installed,
)
from worker import free_port, start_redis

DOCS = ROOT / "docs"
BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->\n"


def versions(variant: Variant) -> str:
    """Return what an environment runs, of what matters."""
    python = next(each for each in variant.bin.glob("python"))
    listed = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "list", "--format=json"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    wanted = ("celery", "opentelemetry-sdk", "splunk-opentelemetry", "logfire", "ddtrace", "newrelic", "otel-celery-launcher")  # fmt: skip
    found = {each["name"]: each["version"] for each in json.loads(listed)}
    return ", ".join(f"{name} {found[name]}" for name in wanted if name in found)


def about(variants: list[Variant], rounds: int) -> str:
    """Say when, on what and with what was measured."""
    lines = [
        f"`make bench ROUNDS={rounds}`, {time.strftime('%Y-%m-%d', time.gmtime())};"
        f" Python {platform.python_version()}, {platform.system()} {platform.machine()},"
        f" {os.cpu_count()} cores. Medians; ± is half of the middle half.",
        "",
        *(f"- {each.name}: {versions(each)}" for each in variants),
    ]
    return "\n".join(lines)


def plain(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        scene: {name: each._asdict() for name, each in by_name.items()}
        for scene, by_name in found.items()
    }


def measure(
    variants: list[Variant], folder: Path, port: int, rounds: int
) -> dict[str, Any]:
    scenes = [cpu.NOOP, cpu.TEN, cpu.UNSAMPLED]
    few = [CELERY, CONTROL, PROCESS, UPSTREAM]
    data: dict[str, Any] = {"about": about(variants, rounds)}
    side_by_side = [CELERY, CONTROL, *variants[1:]]
    data["cpu"] = plain(cpu.measure(side_by_side, scenes, folder, port, rounds=rounds))
    data["cpu, 32 children"] = plain(
        cpu.measure(few, [cpu.NOOP], folder, port, rounds=rounds, children=32)
    )
    data["lifecycle"] = lifecycle.measure(
        [*variants, BESIDE], folder, port, rounds=max(3, rounds // 3)
    )
    data["losses"] = losses.measure(variants, folder, port)
    data["publish"] = publish.measure(
        variants, folder / "publish", port, rounds=max(5, rounds // 2)
    )
    return data | measure_counted(folder, port)


def measure_counted(folder: Path, port: int) -> dict[str, Any]:
    """Return what hardly depends on how fast the machine is at the moment."""
    counted = list(
        instructions.measure(
            [CELERY, UPSTREAM, PROCESS, INLINE], instructions.SCENES, folder, port
        )
    )
    return {
        "instructions": instructions.table(counted),
        "instructions of upstream's": instructions.shares(counted, PROCESS),
        "exporter": exporter.measure(PROCESS, folder / "exporter", port),
    }


def write(data: dict[str, Any]) -> None:
    (DOCS / "benchmarks.json").write_text(
        json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    )
    (DOCS / "benchmarks.svg").write_text(report.svg(data["cpu"][cpu.NOOP.name]))
    page = DOCS / "benchmarks.md"
    head, _, tail = page.read_text().partition(BEGIN)
    _, _, foot = tail.partition(END)
    page.write_text(head + BEGIN + "\n" + report.markdown(data) + "\n" + END + foot)


def main() -> None:
    is_quick = "--quick" in sys.argv
    numbers = [int(each) for each in sys.argv[1:] if each.isdigit()]
    rounds = numbers[0] if numbers else 24
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        if is_quick:
            variants = [CELERY, CONTROL, PROCESS, INLINE, UPSTREAM]
            if not all(each.install() for each in variants):
                sys.exit("not all can be installed here")
        else:
            variants = installed()
        server = start_redis(folder, port)
        try:
            if is_quick:
                found = plain(
                    cpu.measure(variants, [cpu.NOOP], folder, port, rounds=rounds)
                )
                print(report.cpu_table(found[cpu.NOOP.name]))
                return
            if "--losses" in sys.argv:
                data = json.loads((DOCS / "benchmarks.json").read_text())
                data["losses"] = losses.measure(variants, folder, port)
            elif "--counted" in sys.argv:
                data = json.loads((DOCS / "benchmarks.json").read_text())
                data |= measure_counted(folder, port)
            else:
                data = measure(variants, folder, port, rounds)
        finally:
            server.terminate()
    write(data)
    print(report.markdown(data))


if __name__ == "__main__":
    main()
