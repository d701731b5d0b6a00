# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``otel-celery fleet``: all live workers of some brokers, and which of them deliver."""
