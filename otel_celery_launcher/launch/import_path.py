# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The import path, if this package is in a folder on ``PYTHONPATH``.

Such a folder (``pip install --target``) has a Celery of its own, and precedes the
image's packages. If the image has a Celery, the application has been tested with that
one, so the image's packages must come first. A folder with the only Celery is the
application's own and is not moved. Runs in the launcher and below ``exec``, before
anything but this package is imported.
"""

from __future__ import annotations

import os
import sys

import otel_celery_launcher

# In which this package lies.
_FOLDER = os.path.dirname(
    os.path.dirname(os.path.abspath(otel_celery_launcher.__file__))
)


def let_the_applications_packages_win() -> None:
    """Look into our folder last, where ``PYTHONPATH`` has put it before the image's."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    given = {os.path.abspath(each) for each in entries if each}
    if _FOLDER not in given or not _has_celery_beside(given):
        return
    ours = [each for each in sys.path if os.path.abspath(each or ".") == _FOLDER]
    sys.path[:] = [each for each in sys.path if each not in ours] + ours[:1]


def _has_celery_beside(given: set[str]) -> bool:
    """Return whether the interpreter's own packages hold a Celery."""
    return any(
        each
        and os.path.abspath(each) not in given
        and os.path.isfile(os.path.join(each, "celery", "__main__.py"))
        for each in sys.path
    )
