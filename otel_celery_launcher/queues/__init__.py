# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""How many messages wait in a broker's queues: a program of its own (``depth.py``)."""
