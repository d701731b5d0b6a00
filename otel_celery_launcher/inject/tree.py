# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Makes an injected tree: what is in it, for which Pythons, and whether it is whole.

``launch/injected.py`` says which folders a tree has. pip fetches wheels for Pythons that
need not be here. Nothing in a tree knows where it lies. Runs in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import otel_celery_launcher
from otel_celery_launcher.errors import LauncherError
from otel_celery_launcher.inject import at_start, script
from otel_celery_launcher.ipc.tree import LAUNCHER, PURE, exporter_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DISTRIBUTION = "otel-celery-launcher"

# How long pip may take for one folder.
PIP_SECONDS = 900

# What only the exporter process imports; what they need comes with them.
_EXPORTER_SIDE = (
    "grpcio",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-exporter-prometheus",
)

# The application brings it.
_NOT_OURS = frozenset({"celery", "click"})

# Where a distribution of the application's side goes; all others are ``packages``.
_FOLDERS = {
    "opentelemetry-api": "sdk",
    "opentelemetry-sdk": "sdk",
    "opentelemetry-semantic-conventions": "conventions",
    # A subclass of what another release of contrib's has: it fits each.
    "opentelemetry-instrumentation-celery": "packages",
}
_CONTRIB = ("opentelemetry-instrumentation", "opentelemetry-util-")

# Tags of wheels, newest first: PEP 600, PEP 656.
_TAGS = {
    "glibc": ("manylinux_2_28", "manylinux_2_17", "manylinux2014"),
    "musl": ("musllinux_1_2", "musllinux_1_1"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """For what a tree is made.

    Attributes:
        pythons: ``3.11`` or ``3.13t``.
        c_libraries: ``glibc``, ``musl`` or both.
        machine: As ``uname -m`` has it.
        wheels: A folder with all wheels; None for pip's index.
    """

    pythons: Sequence[str]
    c_libraries: Sequence[str]
    machine: str
    wheels: Path | None = None


@dataclass(slots=True)
class Tree:
    """A tree that is made.

    Args:
        folder: Where it is to be.
        wanted: For what.

    Attributes:
        unchecked: Pythons that are not here to try it.
    """

    folder: Path
    wanted: Wanted
    unchecked: list[str] = field(default_factory=list)

    def make(self) -> None:
        """Make it in the folder, hidden, and show it when it is whole.

        The folder may be one that is mounted, and is left as it was if this fails.

        Raises:
            LauncherError: The folder is in use, or pip or the check refuses.
        """
        is_new = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise LauncherError(
                    f"{self.folder} is not empty: expected a new folder",
                    "name another, or remove it: what runs with it keeps what it has"
                    " imported",
                )
            self._make()
        except OSError as exc:
            raise LauncherError(
                f"{self.folder} cannot be written ({exc.strerror or exc}): expected a new"
                " folder, or an empty one",
                "name another",
            ) from exc
        finally:
            if is_new and self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _make(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".new-") as name:
            new = Path(name)
            _copy(at_start.__file__, new / "sitecustomize.py", 0o644)
            _copy(script.__file__, new / "otel-celery", 0o755)
            for python in self.wanted.pythons:
                self._make_home(new / f"python{python}", python)
            # What begins it last: a program that starts meanwhile finds none.
            for each in sorted(new.iterdir(), key=lambda one: one.suffix == ".py"):
                each.rename(self.folder / each.name)

    def _make_home(self, home: Path, python: str) -> None:
        home.mkdir()
        requirements = _requirements()
        of_exporter = [
            text for text in requirements if Requirement(text).name in _EXPORTER_SIDE
        ]
        of_application = [
            text
            for text in requirements
            if Requirement(text).name not in (*_EXPORTER_SIDE, *_NOT_OURS)
        ]
        any_library = self.wanted.c_libraries[0]
        with tempfile.TemporaryDirectory(dir=home) as scratch:
            self._install(Path(scratch), python, any_library, of_application)
            _distribute(Path(scratch), home)
        pinned = _pins(home)
        for library in self.wanted.c_libraries:
            exporter = Path(exporter_folder(str(home), library, self.wanted.machine))
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                self._install(Path(scratch), python, library, of_exporter, pinned)
                _move_others(Path(scratch), exporter, set(pinned))
        _copy_launcher(home / LAUNCHER)
        _remove_what_is_not_needed(home)
        self._finish(home, python)

    def _install(
        self,
        target: Path,
        python: str,
        library: str,
        requirements: Sequence[str],
        pinned: Iterable[str] = (),
    ) -> None:
        """Let pip install wheels for another Python."""
        wanted = self.wanted
        tags = [f"{tag}_{wanted.machine}" for tag in _TAGS[library]]
        words = [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check"),
            *("install", "--quiet", "--target", str(target), "--no-compile"),
            *("--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", python.rstrip("t")),
            *(word for tag in tags for word in ("--platform", tag)),
            *_abis(python),
        ]
        if wanted.wheels is not None:
            words += ["--no-index", "--find-links", str(wanted.wheels)]
        constraints = target / "constraints.txt"
        constraints.write_text("\n".join(pinned))
        words += ["--constraint", str(constraints), *requirements]
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=PIP_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise LauncherError(
                f"pip has not ended in {PIP_SECONDS} s", "try again, or use --wheels"
            ) from exc
        constraints.unlink()
        if done.returncode:
            raise LauncherError(
                f"pip cannot install the packages of Python {python} for {library} on"
                f" {wanted.machine}: {_last_line(done.stderr)}",
                "see which of them has no wheel, or use --wheels with a folder of wheels",
            )

    def _finish(self, home: Path, python: str) -> None:
        """Compile and try it, if there is such a Python here."""
        interpreter = find_python(python)
        if interpreter is None:
            self.unchecked.append(python)
            return
        # By content, not by time: a tree is copied, and may be read-only.
        compiles = ("compileall", "-q", "--invalidation-mode", "unchecked-hash")
        _run(
            [interpreter, "-I", "-m", *compiles, "-s", str(home), str(home)],
            f"the tree of Python {python} cannot be compiled",
        )
        _run([interpreter, "-I", "-S", "-c", _TRY, str(home)], _misfit(python))
        here = Path(exporter_folder(str(home)))
        if here.is_dir():
            _run(
                [interpreter, "-I", "-S", "-c", _TRY_EXPORTER, str(home), here.name],
                _misfit(python),
            )

    def size(self) -> int:
        """Return the bytes of all its files."""
        return sum(
            each.stat().st_size for each in self.folder.rglob("*") if each.is_file()
        )


_PATH = (
    "import sys, os; home = sys.argv[1];"
    " sys.path += [os.path.join(home, each) for each in"
    f" ({LAUNCHER!r}, *sys.argv[2:], *{PURE!r})];"
)
# Without Celery, which is the application's.
_TRY = _PATH + (
    " import opentelemetry.sdk.trace, opentelemetry.instrumentation.instrumentor, wrapt,"
    " dotenv, packaging, otel_celery_launcher.settings.settings;"
    " assert not {'grpc', 'google'} & set(sys.modules)"
)
_TRY_EXPORTER = _PATH + (
    " import otel_celery_launcher.exporter_process.server, grpc,"
    " opentelemetry.exporter.otlp.proto.grpc.trace_exporter,"
    " opentelemetry.exporter.otlp.proto.http.trace_exporter"
)


def _misfit(python: str) -> str:
    return f"the tree of Python {python} does not work"


def _run(words: Sequence[str], problem: str) -> None:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=PIP_SECONDS, check=False
    )
    if done.returncode:
        raise LauncherError(
            f"{problem}: {_last_line(done.stderr or done.stdout)}", "please report it"
        )


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


def find_python(python: str) -> str | None:
    """Return a Python of a version that is here; None if there is none."""
    own = ".".join(map(str, sys.version_info[:2]))
    own += "t" if "t" in sys.abiflags else ""
    if python == own:
        return sys.executable
    found = shutil.which(f"python{python}")
    if found is None:
        return None
    try:  # what is found may be a script that says it is not there
        done = subprocess.run(
            [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found if done.stdout.strip() == python.rstrip("t") else None


def _abis(python: str) -> list[str]:
    """Return pip's options for the wheels that a Python takes."""
    number = python.replace(".", "")
    return [word for abi in (f"cp{number}", "abi3", "none") for word in ("--abi", abi)]


def _requirements() -> list[str]:
    """Return what this package needs, with all that its extras ``auto`` and ``http`` have."""
    found: list[str] = []
    extras = ("", "auto", "http", "prometheus")
    for text in metadata.requires(DISTRIBUTION) or ():
        wanted = Requirement(text)
        marker = wanted.marker
        if wanted.name == DISTRIBUTION or (
            marker is not None
            and not any(marker.evaluate({"extra": e}) for e in extras)
        ):
            continue
        wanted.marker = None
        found.append(str(wanted))
    return found


def _distribute(scratch: Path, home: Path) -> None:
    """Move each distribution of the application's side to its folder."""
    for each in metadata.distributions(path=[str(scratch)]):
        name = canonicalize_name(each.metadata["Name"])
        folder = _FOLDERS.get(
            name, "instrumentations" if name.startswith(_CONTRIB) else "packages"
        )
        _move(each, scratch, home / folder)


def _move_others(scratch: Path, target: Path, pinned: set[str]) -> None:
    """Move what the application's side does not have."""
    known = {pin.partition("==")[0] for pin in pinned}
    for each in metadata.distributions(path=[str(scratch)]):
        if canonicalize_name(each.metadata["Name"]) not in known:
            _move(each, scratch, target)


def _move(distribution: metadata.Distribution, scratch: Path, target: Path) -> None:
    for file in distribution.files or ():
        parts = Path(str(file)).parts
        source = scratch / Path(*parts)
        if ".." in parts or not source.is_file():
            continue  # a script, beside the folder
        destination = target / Path(*parts)
        destination.parent.mkdir(parents=True, exist_ok=True)
        source.rename(destination)


def _pins(home: Path) -> list[str]:
    """Return the releases of the application's side, which the exporter's side shares."""
    folders = [str(each) for each in home.iterdir() if each.is_dir()]
    return sorted(
        f"{canonicalize_name(each.metadata['Name'])}=={each.version}"
        for each in metadata.distributions(path=folders)
    )


def _copy_launcher(target: Path) -> None:
    """Copy this package, and what says its release."""
    package = Path(otel_celery_launcher.__file__).parent
    shutil.copytree(
        package,
        target / package.name,
        ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
    )
    info = target / f"{package.name}-{otel_celery_launcher.__version__}.dist-info"
    info.mkdir()
    about = metadata.metadata(DISTRIBUTION)
    lines = ("Metadata-Version: 2.1", f"Name: {about['Name']}")
    text = "\n".join((*lines, f"Version: {otel_celery_launcher.__version__}", ""))
    (info / "METADATA").write_text(text)


def _remove_what_is_not_needed(home: Path) -> None:
    """Remove scripts, type stubs and what only a compiler reads."""
    for name in ("bin", "include"):
        for folder in home.glob(f"*/{name}"):
            shutil.rmtree(folder)
    for pattern in ("*.pyi", "*.proto", "*.c", "*.h"):
        for file in home.rglob(pattern):
            file.unlink()
    for path in home.rglob("*"):  # anybody may read it, whoever made it
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _copy(source: str | None, target: Path, mode: int) -> None:
    assert source is not None  # noqa: S101 - of a module in a file
    shutil.copyfile(source, target)
    target.chmod(mode)
