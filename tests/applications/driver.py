"""Install real applications, add otel-celery, and look what that changes.

    python -m tests.applications.driver FOLDER PYTHON WHEEL [NAME]...

For each: its pins before and after, then its own programs under otel-celery, and what
came. Prints a line for each thing that was looked at; ends with status 1 if one failed.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from otel_celery_launcher.receiver.memory import Receiver
from tests.applications.lab import Lab
from tests.support.servers import run_postgres, run_redis

NAMES = ("director", "dagster", "pretix", "superset", "airflow")


class Environment:
    """A virtual environment of one application."""

    def __init__(self, folder: Path, python: str, requirements: list[str]) -> None:
        self.bin = folder / "bin"
        kept = folder / "pins.txt"
        if not kept.exists():
            subprocess.run([python, "-m", "venv", folder], check=True)
            self.pip("install", "--quiet", *requirements)
            kept.write_text("\n".join(sorted(self.pins())))
            (folder / "check.txt").write_text(self.pip("check"))
        self.before = set(kept.read_text().splitlines())
        self.broken = set((folder / "check.txt").read_text().splitlines())

    def pip(self, *words: str) -> str:
        """Run pip; return what it writes."""
        command = [str(self.bin / "python"), "-m", "pip", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, *words], capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def pins(self) -> set[str]:
        """Return what is installed, but ours."""
        lines = self.pip("freeze").splitlines()
        return {line for line in lines if not line.startswith("otel-celery-launcher")}


def examine(name: str, folder: Path, python: str, wheel: str) -> list[str]:
    """Return what was seen of an application; raises where it is not as it should be."""
    application = importlib.import_module(f"tests.applications.{name}")
    environment = Environment(folder / name, python, application.REQUIREMENTS)
    environment.pip("install", "--quiet", wheel)
    environment.pip("install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    moved = sorted(environment.before - environment.pins())
    expected = getattr(application, "MOVED", [])
    assert [line.partition("==")[0] for line in moved] == expected, f"moved: {moved}"
    seen = [f"pins moved: {', '.join(moved) or 'none'}"]
    news = sorted({*environment.pip("check").splitlines()} - environment.broken)
    assert expected or not [line for line in news if " has requirement " in line], news
    subprocess.run(
        [environment.bin / "otel-celery", "bootstrap", "--install"], check=True
    )
    moved = sorted(environment.before - environment.pins())
    assert [line.partition("==")[0] for line in moved] == expected, f"moved: {moved}"
    with (
        tempfile.TemporaryDirectory() as home,
        run_redis(Path(home)) as redis,
        run_postgres() as postgres,
        Receiver() as receiver,
        Lab(environment.bin, Path(home), redis, postgres, receiver) as lab,
    ):
        return [*seen, *application.examine(lab)]


def main() -> int:
    """Examine the applications that are named, or all."""
    folder, python, wheel, *names = sys.argv[1:]
    failed = []
    for name in names or NAMES:
        print(f"== {name}", flush=True)
        try:
            for line in examine(name, Path(folder).absolute(), python, wheel):
                print(f"   {line}", flush=True)
        except Exception:  # noqa: BLE001 - the others are looked at all the same
            traceback.print_exc(file=sys.stdout)
            failed.append(name)
    print(f"failed: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
