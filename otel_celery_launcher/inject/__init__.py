# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A tree that traces programs by their environment alone: what makes it, and what is in it."""
