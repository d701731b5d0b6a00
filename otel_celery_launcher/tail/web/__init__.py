# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The live page of ``otel-celery tail --web``: what came, kept, drawn and served."""
