# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Which modules an instrumentation is for, and the moment at which they are imported.

An instrumentation imports its library. A program that is not Celery's must decide
itself whether and in which order to import libraries: gevent and eventlet must come
first (``compat/monkey_patching.py``). So each is turned on once the program has
imported its library.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib.metadata import Distribution, EntryPoint

# Instrumentations of the standard library require no distribution.
_STANDARD_MODULES = {"sqlite3": "sqlite3", "urllib": "urllib.request"}

# In a distribution's metadata: Requires-Dist: requests ~=2.0 ; extra == 'instruments'
# (`instruments-any`: any of several libraries).
_INSTRUMENTS = re.compile(r"([\w.-]+).*;.*extra\s*==\s*[\"']instruments(?:-any)?[\"']")


# A library, the library whose classes derive from it, and a name in that one. The
# latter's instrumentation is turned on first, since its classes would inherit the
# former's.
_IMPORTED_BY = {"starlette": ("fastapi", "FastAPI")}


def modules_of(entry_point: EntryPoint) -> set[str]:
    """Return the modules an instrumentation is for; none where nobody can know."""
    name = _STANDARD_MODULES.get(entry_point.name)
    if name is not None:
        return {name}
    names: set[str] = set()
    requirements = (entry_point.dist and entry_point.dist.requires) or []
    for requirement in filter(None, map(_INSTRUMENTS.match, requirements)):
        with suppress(PackageNotFoundError):  # one of several that it is for
            names |= _top_modules(distribution(requirement[1]))
    return names


def when_imported(modules: Iterable[str], act: Callable[[], object]) -> None:
    """Call ``act`` when one of the modules is imported; at once where it is already.

    Args:
        modules: Names.
        act: Called once, in the importing thread; raises nothing.
    """
    is_done = False

    def act_once(module: Any) -> None:
        nonlocal is_done
        importing = _IMPORTED_BY.get(getattr(module, "__name__", ""))
        if importing is not None and _is_half_imported(*importing):
            wrapt.register_post_import_hook(act_once, importing[0])
        elif not is_done:
            is_done = True
            act()

    for name in sorted(modules):
        wrapt.register_post_import_hook(act_once, name)


def _is_half_imported(name: str, attribute: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not hasattr(module, attribute)


def _top_modules(distribution: Distribution) -> set[str]:
    """Return the modules of a distribution: ``psycopg2`` for psycopg2-binary.

    For a namespace package, whose import triggers no hook, return the packages in it.
    """
    files = [PurePath(str(file)) for file in distribution.files or ()]
    packages = {file.parts[:-1] for file in files if file.name == "__init__.py"}
    names = {
        ".".join(parts)
        for parts in packages
        if parts and not any(parts[:end] in packages for end in range(1, len(parts)))
    }
    names |= {
        file.name.partition(".")[0]
        for file in files
        if len(file.parts) == 1 and file.suffix in (".py", ".so")
    }
    return {name for name in names if name[0] != "_" and is_module_name(name)}


def is_module_name(name: str) -> bool:
    """Return whether a dotted name can be imported."""
    return all(part.isidentifier() for part in name.split("."))
