# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery doctor``: does tracing work here, before anything is rolled out.

Each module checks one thing and returns findings; ``examination.py`` runs the checks in
order. Text is printed as soon as each finding is known, JSON at the end. Runs in a
process of its own, never in a worker.
"""
