# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The main module of spawned pool children: billiard runs it before the application.

Named in billiard's preparation data by ``_compat_celery.set_up_spawned_children``; billiard
runs it under the name ``__mp_main__`` (billiard ``spawn.py``, ``_fixup_main_from_name``).
"""

from __future__ import annotations

from otel_celery_launcher.launch.celery_command import run_in_spawned_child

if __name__ == "__mp_main__":
    run_in_spawned_child()
