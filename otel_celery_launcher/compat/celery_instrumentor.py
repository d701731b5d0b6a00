# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of the contrib instrumentor of Celery.

It is not imported here. Without the launcher an application does not have it either,
unless it imports it, and then it takes 20 ms and imports Celery's worker.
"""

from __future__ import annotations

from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from otel_celery_launcher.errors import MALFORMED_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

_MODULE = "opentelemetry.instrumentation.celery"
_DISTRIBUTION = "opentelemetry-instrumentation-celery"


class Instrumentation(Protocol):
    """What connects spans to Celery: ``tasks/instrumentor.py``."""

    def connect(self, asked: Mapping[str, Any]) -> None:
        """Connect, with the arguments of ``instrument``."""

    def honour(self, asked: Mapping[str, Any]) -> None:
        """Change, when connected, what arguments of ``instrument`` ask for."""

    def disconnect(self) -> None:
        """Undo ``connect``."""


def version() -> str:
    """Return the contrib instrumentation's version, which its scope has."""
    return metadata.version(_DISTRIBUTION)


def stand_in_for_contrib(instrumentation: Instrumentation) -> None:
    """Make ``CeleryInstrumentor()`` return an instrumentor for ours, wherever it is used.

    ``BaseInstrumentor`` keeps one instance a class, so an application's own call of
    ``CeleryInstrumentor().instrument()`` would instrument a second time.

    Args:
        instrumentation: It is connected.
    """
    import wrapt  # not for `otel-celery inspect`

    take_over = partial(_take_over, instrumentation)
    wrapt.register_post_import_hook(take_over, _MODULE)


def _take_over(instrumentation: Instrumentation, module: ModuleType) -> None:
    """Use ours instead of any that is there; runs in the application's import of it."""
    try:
        _replace(instrumentation, module)
    except MALFORMED_ERRORS:  # somebody else's module of this name
        return
    except BaseException:  # a soft time limit; there is no second import
        _replace(instrumentation, module)
        raise


def _replace(instrumentation: Instrumentation, module: ModuleType) -> None:
    present = module.CeleryInstrumentor()
    if present.is_instrumented_by_opentelemetry:
        present.uninstrument()
    instrumentor = _subclass(module.CeleryInstrumentor)()
    instrumentor.instrumentation = instrumentation
    instrumentor._is_instrumented_by_opentelemetry = True
    module.CeleryInstrumentor._instance = instrumentor


def _subclass(contrib: Any) -> Any:
    """Return a class whose instances are the contrib instrumentor to those who ask."""

    class LauncherCeleryInstrumentor(contrib):  # type: ignore[misc]
        """Does with our instrumentation what an application asks of the contrib one."""

        _instance = None  # beside that of the class
        instrumentation: Instrumentation

        def instrument(self, **kwargs: Any) -> None:
            """Connect to Celery's signals; a second call changes what it asks for."""
            if self.is_instrumented_by_opentelemetry:
                self.instrumentation.honour(kwargs)
            else:
                super().instrument(**kwargs)

        def _instrument(self, **kwargs: Any) -> None:
            self.instrumentation.connect(kwargs)

        def _uninstrument(self, **_: Any) -> None:
            self.instrumentation.disconnect()

    return LauncherCeleryInstrumentor
