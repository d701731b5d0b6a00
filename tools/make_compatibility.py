"""Write docs/compatibility.md: the matrix of tests, run on each minor release of Celery.

make compatibility            # or: python -m tools.make_compatibility [RELEASE]...
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from tests.process.test_matrix import MODES, POOLS, STARTS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
RELEASES = ("5.3", "5.4", "5.5", "5.6", "5.7")
REFUSED = "refused"  # by Celery itself; the test asserts its message

HEAD = """\
# Compatibility

This page shows every pool, started in every way, in both export modes, on each minor release of
Celery. For each cell, a test publishes 20 tasks and stops the worker right after the last result.
Then each run span must have arrived once, under its producer's span. No process and no pidfile may
be left. `make compatibility` writes this page from the tests in `tests/process/test_matrix.py`.

`+` means passed, and `FAILED` means failed. `refused` means that Celery refuses this combination,
and `-` that this release does not have it. In each cell, the first mark is for the exporter process
and the second for inline export.

"""

NOTES = """
The tests of inline mode with gevent and eventlet set `OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf`
(`pip install 'otel-celery-launcher[http]'`): gRPC blocks their event loops.
`worker_pool_start_method=spawn` is new in Celery 5.7.
"""


def run(release: str, report: Path) -> str:
    """Run the matrix on a release of Celery; return its exact version."""
    venv = ROOT / f".venv-celery-{release}"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [
        str(python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    # The kombu of its time: a later one wants a redis-py that Celery's own extra excludes.
    wanted = [f".[{os.environ['TESTED_EXTRAS']}]", "--group", "test", "setuptools<81"]
    wanted += [f"celery=={release}.*", f"kombu=={release}.*"]
    subprocess.run([*pip, "pip>=25.1"], cwd=ROOT, check=True)
    subprocess.run([*pip, *wanted], cwd=ROOT, check=True)
    subprocess.run([*pip, "--force-reinstall", "--no-deps", "."], cwd=ROOT, check=True)
    subprocess.run(
        [str(python), "-m", "pytest", "-q", "-n", "3", "--dist", "loadgroup",
         "tests/process/test_matrix.py", f"--junitxml={report}"],
        cwd=ROOT, check=False, env={**os.environ, "WHOLE_MATRIX": "1"},
    )  # fmt: skip
    command = [str(python), "-c", "import celery; print(celery.__version__)"]
    return subprocess.check_output(command, text=True).strip()


def marks(report: Path) -> dict[str, str]:
    """Return the mark of each test of a report, by its parameters."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.attrib["name"].partition("[")[2].rstrip("]")
        if case.find("failure") is not None or case.find("error") is not None:
            found[name] = "FAILED"
        elif case.find("skipped") is not None:
            found[name] = "-"
        else:
            found[name] = "+"
    return found


def table(columns: dict[str, dict[str, str]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| pool | start | " + " | ".join(columns) + " |"
    yield "| --- " * (2 + len(columns)) + "|"
    for pool in POOLS:
        for start in STARTS:
            cells = [
                REFUSED
                if start == "-B" and pool in ("gevent", "eventlet")
                else " ".join(found[f"{pool}-{start}-{mode}"] for mode in MODES)
                for found in columns.values()
            ]
            yield f"| {pool} | {start} | " + " | ".join(cells) + " |"


def main() -> None:
    columns = {}
    with TemporaryDirectory() as folder:
        for release in sys.argv[1:] or RELEASES:
            report = Path(folder) / f"{release}.xml"
            version = run(release, report)
            columns[version] = marks(report)
            print(version, sorted(set(columns[version].values())), flush=True)
    lines = "\n".join(table(columns))
    python = f"Python {platform.python_version()}, {platform.system()}."
    PAGE.write_text(f"{HEAD}{lines}\n{NOTES}\n{python}\n")


if __name__ == "__main__":
    main()
