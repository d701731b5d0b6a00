"""``otel-celery bootstrap`` and the doctor's look at requirements: nothing is moved.

In an environment of its own, which sees the packages of the tests and has more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from otel_celery_launcher.bootstrap import command
from otel_celery_launcher.bootstrap.installed_packages import Packages

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


class Environment:
    """A virtual environment above that of the tests; packages may be pretended."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.site = folder / "lib" / version / "site-packages"
        (self.site / "tests.pth").write_text(sysconfig.get_path("purelib"))
        self.home = folder

    def pretend(self, name: str, version: str, *requires: str) -> None:
        """Make the metadata of a package that is not there."""
        folder = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = [f"Requires-Dist: {each}\n" for each in requires]
        text = METADATA.format(name=name, version=version) + "".join(lines)
        (folder / "METADATA").write_text(text)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run otel-celery there."""
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "SSL_CERT_FILE"):
            if name in os.environ:
                environ[name] = os.environ[name]
        return subprocess.run(
            [self.python, "-m", "otel_celery_launcher", *words],
            env=environ, cwd=self.home, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip

    def doctor(self) -> list[str]:
        """Return what the doctor says of requirements."""
        done = self.run("doctor", "--wait", "0.1")
        return [line for line in done.stdout.splitlines() if " wants " in line]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "venv")


def test_an_environment_that_fits_together_has_no_finding(
    environment: Environment,
) -> None:
    environment.pretend("colorama", "1.0", "nothing-here>=2")  # nobody's we brought
    assert environment.doctor() == []


def test_the_doctor_names_each_requirement_that_does_not_hold(
    environment: Environment,
) -> None:
    """Of OpenTelemetry's parts, and an application's on what was moved."""
    environment.pretend("opentelemetry-exporter-prometheus", "0.1", "flask-nowhere<1")
    environment.pretend("shop", "2.0", "redis==3.5.3", "protobuf<4")
    found = environment.doctor()
    assert len(found) == 3, found
    assert "opentelemetry-exporter-prometheus 0.1 wants flask-nowhere<1" in found[0]
    assert "it is not" in found[0]
    assert "shop 2.0 wants redis==3.5.3, and" in found[1]
    assert "shop 2.0 wants protobuf<4, and" in found[2]


def test_what_fits_is_proposed_once_and_of_one_release() -> None:
    found = command.proposals(Packages())
    names = [each.name for each in found]
    assert len(names) == len(set(names))
    assert "opentelemetry-instrumentation-redis" in names
    assert not {"opentelemetry-instrumentation-celery", *command.NOT_PROPOSED} & {
        *names
    }
    releases = {each.package.partition("==")[2] for each in found}
    assert len(releases - {""}) == 1


def test_what_would_break_a_pin_is_left_with_pips_reason(
    environment: Environment,
) -> None:
    """An application that holds a part of OpenTelemetry's back."""
    environment.pretend("opentelemetry-util-http", "0.1b0")
    done = environment.run("bootstrap", "--dry-run")
    lines = done.stdout.splitlines()
    fits = [line for line in lines if line.startswith("fits")]
    leave = [line for line in lines if line.startswith("leave")]
    assert any("instrumentation-redis" in line for line in fits), done
    assert any("instrumentation-django" in line for line in leave), done
    assert lines[-1].startswith("pip install 'opentelemetry-instrumentation-")
    assert "django" not in lines[-1]


def test_it_installs_only_when_asked(environment: Environment) -> None:
    before = sorted(environment.site.iterdir())
    assert environment.run("bootstrap").returncode == 0
    assert sorted(environment.site.iterdir()) == before
    done = environment.run("bootstrap", "--install")
    assert done.returncode == 0, done.stdout
    assert list(environment.site.glob("opentelemetry_instrumentation_redis-*"))
    again = environment.run("bootstrap").stdout
    assert "fits" not in again  # what is left was not published with this release
    assert environment.doctor() == []
