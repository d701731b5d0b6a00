# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Log records of the application and of Celery: taken, read, and made fit to leave.

``capture.py``  takes them from the application's loggers
``reader.py``   what leaves of one: its fields, without what is to stay
``events.py``   the same of what instrumentations emit by OpenTelemetry's own API
"""
