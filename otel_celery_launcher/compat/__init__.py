# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""All uses of other libraries' private names, one module for each subject.

celery_instrumentor  the contrib instrumentor of Celery
celery_pools         which of Celery's pools fork
celery_private       Celery's and billiard's pools, timers, senders, log formats
celery_signals       signals of Celery's with one receiver
celery_descriptors   the descriptors that Celery closes
result_backends      the calls of Celery's result backends
providers            OpenTelemetry's tracer providers and span processors
contexts             OpenTelemetry's contexts and propagators
span_fields          what a span of the SDK is made of
lazy_span            a span that is made on first access
span_starter         starts of spans that cost less than the SDK's
quick_spans          spans of the application that cost less than the SDK's
otlp_exporters       the OTLP exporters
contrib_bootstrap    the list of instrumentations in opentelemetry-bootstrap
monkey_patching      gevent and eventlet

Each private name has a test in ``tests/unit/compat`` that fails when upstream changes
it. Verified with Celery 5.3 to 5.7, billiard 4.1 to 4.3, OpenTelemetry 1.30 to 1.45.
"""

from __future__ import annotations
