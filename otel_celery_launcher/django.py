# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Django's instrumentation, turned on when Django has its settings.

It adds a middleware to the settings, which the application names long after the start.
So it waits for the moment at which Django loads its middlewares. Runs in web processes;
a worker handles no requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from collections.abc import Callable

# Loads the middlewares, once in each process that handles requests (Django 4.2 to 6).
_MODULE, _METHOD = "django.core.handlers.base", "BaseHandler.load_middleware"


def instrument_when_settings_are_there(instrument: Callable[[], object]) -> None:
    """Call ``instrument`` before Django loads its middlewares, whenever that is."""

    def load(wrapped: Any, _: Any, arguments: Any, named: Any) -> Any:
        instrument()
        return wrapped(*arguments, **named)

    def when_imported(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, _METHOD, load)

    wrapt.register_post_import_hook(when_imported, _MODULE)
