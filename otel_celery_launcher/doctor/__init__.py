# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery doctor``: does tracing work here, before anything is rolled out.

Each module looks at one thing and returns findings; ``command.py`` collects all of them
first and prints after. Runs in a process of its own, never in a worker.
"""
