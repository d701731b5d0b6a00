# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of Celery's result backends.

See ``compat/celery_private.py`` for what is verified; the tests are in
``tests/unit/compat/test_result_backends.py``.
"""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.compat.celery_private import _is_marked, _marked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# What asks a result backend from outside of a run: an application that polls.
ASKING_CALLS = (
    "delete_group",
    "forget",
    "get_task_meta",
    "restore_group",
    "wait_for_pending",
)

# All that asks a result backend: the calls of Celery's own code, and those that they end
# in (celery ``backends/base.py``, ``backends/asynchronous.py``).
BACKEND_CALLS = (
    *ASKING_CALLS,
    "add_to_chord",
    "apply_chord",
    "cleanup",
    "delete",
    "expire",
    "get",
    "incr",
    "mget",
    "on_chord_part_return",
    "on_task_call",
    "save_group",
    "set",
    "store_result",
)


def wrap_backend_calls(quiet: Callable[..., Any], names: Sequence[str]) -> None:
    """Replace each of these methods of backend classes with ``quiet(call)``.

    A class is changed once, when ``Celery._get_backend`` (celery ``app/base.py``) has
    made its first backend. A method that an application or a test replaced before is
    wrapped, and one that it replaces later stays unwrapped.
    """
    import wrapt  # not for `otel-celery inspect`

    def wrap(module: Any) -> None:
        make = module.Celery._get_backend

        @wraps(make)
        def _get_backend(app: Any) -> Any:
            backend = make(app)
            for class_ in type(backend).__mro__:
                _wrap_calls(class_, quiet, names)
            return backend

        module.Celery._get_backend = _get_backend

    wrapt.register_post_import_hook(wrap, "celery.app.base")


def _wrap_calls(class_: Any, quiet: Callable[..., Any], names: Sequence[str]) -> None:
    for name in names:
        call = class_.__dict__.get(name)
        if type(call) is FunctionType and not _is_marked(call):
            with suppress(AttributeError, TypeError):  # a class that cannot be changed
                setattr(class_, name, _marked(quiet(call)))
