"""The contrib instrumentor: private names that we lean on."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import opentelemetry.instrumentation.celery as contrib
import pytest
from celery.exceptions import SoftTimeLimitExceeded
from opentelemetry.instrumentation.celery.version import __version__

from otel_celery_launcher.compat import celery_instrumentor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Recorded:
    """An instrumentation that notes what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def connect(self, asked: Mapping[str, Any]) -> None:
        self.calls.append(("connect", dict(asked)))

    def honour(self, asked: Mapping[str, Any]) -> None:
        self.calls.append(("honour", dict(asked)))

    def disconnect(self) -> None:
        self.calls.append(("disconnect", {}))


@pytest.fixture
def ours() -> Iterator[Recorded]:
    before = contrib.CeleryInstrumentor._instance
    instrumentation = Recorded()
    celery_instrumentor.stand_in_for_contrib(instrumentation)
    yield instrumentation
    contrib.CeleryInstrumentor._instance = before


def test_an_application_meets_ours_as_the_one_instance(ours: Recorded) -> None:
    met = contrib.CeleryInstrumentor()
    assert isinstance(met, contrib.CeleryInstrumentor)
    assert met is contrib.CeleryInstrumentor()
    assert met.is_instrumented_by_opentelemetry
    assert not ours.calls


def test_what_an_application_asks_for_is_asked_of_ours(ours: Recorded) -> None:
    met = contrib.CeleryInstrumentor()
    met.instrument(use_span_links=True)
    met.uninstrument()
    met.instrument(skip_dep_check=True)
    assert ours.calls == [
        ("honour", {"use_span_links": True}),
        ("disconnect", {}),
        ("connect", {}),
    ]


def test_the_scope_has_the_version_of_contrib() -> None:
    assert celery_instrumentor.version() == __version__


def test_another_module_of_that_name_can_be_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "opentelemetry.instrumentation.celery"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    celery_instrumentor.stand_in_for_contrib(Recorded())


def test_a_limit_that_strikes_in_the_import_is_raised_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no second import, in which ours could take its place."""
    before, asked = contrib.CeleryInstrumentor._instance, []

    def is_instrumented(self: object) -> bool:
        asked.append(self)
        if len(asked) == 1:
            raise SoftTimeLimitExceeded
        return False

    class_ = contrib.CeleryInstrumentor
    ours = Recorded()
    with monkeypatch.context() as patched:
        patched.setattr(
            class_, "is_instrumented_by_opentelemetry", property(is_instrumented)
        )
        with pytest.raises(SoftTimeLimitExceeded):
            celery_instrumentor.stand_in_for_contrib(ours)
    contrib.CeleryInstrumentor().instrument(use_span_links=True)
    assert ours.calls == [("honour", {"use_span_links": True})]
    class_._instance = before


NOT_IMPORTED = """
import sys
from otel_celery_launcher.tasks import instrumentor
from otel_celery_launcher.settings.tasks import TaskSettings
instrumentor.instrument_celery(TaskSettings(), None, None)
print([name for name in sys.modules if name.startswith("opentelemetry.instrumentation")])
from opentelemetry.instrumentation.celery import CeleryInstrumentor
print(type(CeleryInstrumentor()).__name__)
"""


def test_contrib_is_imported_by_the_application_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOT_IMPORTED], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "LauncherCeleryInstrumentor"]
