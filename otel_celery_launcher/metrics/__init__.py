# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics are state: they lie in memory that all processes of a worker share.

A process that dies takes no count with it. Each process writes into rows of the page
that are its own, and whoever exports adds the rows up: the exporter process, or a
process that exports inline. Nothing is queued.

``layout.py``       what a series is, in bytes
``page.py``         the page: rows, segments, who has a row
``page_head.py``    its head: whose metrics these are, words for other processes
``writer.py``       a process's own row: finds and makes series
``instruments.py``  the metrics API's seven instruments on top of it
``provider.py``     its provider and meter
``observed.py``     callbacks of observable instruments, in threads of their own
``reader.py``       all rows, added up
``points.py``       the SDK's data classes made of that
``sender.py``       reads and exports at each interval
``destination.py``  one exporter, and what its collector has taken
``killed.py``       runs whose process is gone
``builtin.py``      the metrics that are there without code
``health.py``       what the exporting process knows by itself: delivery, CPU, memory
"""
