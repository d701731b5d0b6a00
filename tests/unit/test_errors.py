"""What fails in our own code is one line, with the place that raised."""

from __future__ import annotations

import pytest

from otel_celery_launcher import __version__
from otel_celery_launcher.errors import LauncherError, guarded
from tests.support.documented import undocumented


class BrokenMessageError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def fail(exc: BaseException) -> None:
    with guarded("Celery runs untraced"):
        raise exc


LINE = fail.__code__.co_firstlineno + 2
PLACE = f"({__file__}:{LINE} in fail)"


@pytest.mark.parametrize(
    ("exc", "shown"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (AttributeError("x" * 5000), f"AttributeError: {'x' * 300}"),
        (BrokenMessageError(), "BrokenMessageError: (its message cannot be read)"),
    ],
)
def test_a_bug_is_one_line_with_its_place(
    exc: Exception, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(exc)
    said = capsys.readouterr().err
    assert said == (
        f"otel-celery: a bug in otel-celery {__version__}: Celery runs untraced. Please"
        f" report it: {shown} {PLACE}\n"
    )
    assert undocumented(said) == []


@pytest.mark.parametrize("exc", [OSError(24, "Too many open files"), MemoryError("no")])
def test_what_the_system_refuses_is_no_bug(
    exc: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(exc)
    said = capsys.readouterr().err
    assert said == (
        "otel-celery: the system refuses what tracing needs: Celery runs untraced."
        f" {type(exc).__name__}: {exc} {PLACE}; compare the limits of this process:"
        " ulimit -a\n"
    )
    assert undocumented(said) == []


def test_the_traceback_follows_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_LOG_LEVEL", "debug")
    fail(ValueError("why"))
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith(f"ValueError: why {PLACE}")
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "ValueError: why"


def test_a_request_that_cannot_be_carried_out_goes_through() -> None:
    with pytest.raises(LauncherError):
        fail(LauncherError("it is bad", "mend it"))
