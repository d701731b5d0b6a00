# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's application: a checkout whose tasks retry, fail and read baggage.

Written as applications are, without a word about exporters or providers. Runs in the
demo's worker and is imported by its web process.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from celery import Celery, Task, chain, group
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach

from otel_celery_launcher.demo import broker

tracer = trace.get_tracer(__name__)
logger = logging.getLogger("shop")


def _folder(name: str) -> str:
    folder = Path(os.environ["OTEL_CELERY_DEMO_FOLDER"]) / name
    folder.mkdir(exist_ok=True)
    return str(folder)


broker.use()
app = Celery(
    "shop", broker="filesystem://localhost", backend=f"file://{_folder('results')}"
)
app.conf.update(
    broker_transport_options={
        "data_folder_in": _folder("broker"),
        "data_folder_out": _folder("broker"),
        "control_folder": _folder("control"),
        "polling_interval": 0.05,
    },
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)


@app.task(name="reserve_stock")
def reserve_stock(order: int) -> int:
    """Do something that deserves a span of its own."""
    with tracer.start_as_current_span("look up warehouse"):
        logger.info("order %s: the last one in stock", order)
        return order


@app.task(name="charge_card", bind=True, max_retries=2)
def charge_card(self: Task, order: int) -> int:
    """Fail at first, as payment services do, and try again."""
    if self.request.retries == 0:
        raise self.retry(countdown=0.1, exc=ConnectionError("payment service is busy"))
    return order


@app.task(name="send_email")
def send_email(order: int) -> int:
    """Read what the web request said, two tasks later."""
    span = trace.get_current_span()
    for key in ("tenant_id", "request_source"):
        span.set_attribute(f"demo.baggage.{key}", str(baggage.get_baggage(key)))
    return order


@app.task(name="update_search")
def update_search(order: int) -> None:
    """Fail for good."""
    raise LookupError(f"order {order} is not in the search index")


def place_order() -> int:
    """Do what the web process does with a request: answer, and leave the work."""
    context = baggage.set_baggage("tenant_id", "acme")
    token = attach(baggage.set_baggage("request_source", "web", context))
    with tracer.start_as_current_span("POST /checkout", kind=trace.SpanKind.SERVER):
        last = group(send_email.s(), update_search.s())
        chain(reserve_stock.s(4711), charge_card.s(), last).delay()
    detach(token)
    return 0
