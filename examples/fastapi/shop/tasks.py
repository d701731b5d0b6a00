"""The Celery application: an order is charged, with a retry, and written down."""

from __future__ import annotations

import os

from celery import Celery
from opentelemetry import baggage
from sqlalchemy import create_engine, text

app = Celery(
    "shop",
    broker=os.environ.get("SHOP_BROKER", "redis://localhost:6379/0"),
    backend=os.environ.get("SHOP_BACKEND", "redis://localhost:6379/0"),
)
app.conf.broker_connection_retry_on_startup = True
app.conf.beat_schedule = {"tidy": {"task": "shop.tasks.tidy", "schedule": 5.0}}

# postgresql+psycopg://shop:secret@localhost/shop, or a file.
engine = create_engine(os.environ.get("SHOP_DATABASE", "sqlite:///shop.db"))


@app.task(bind=True, max_retries=2)
def charge(self, item):
    """Charge an order; the card's company answers at the second attempt."""
    if self.request.retries == 0:
        raise self.retry(countdown=0.1, exc=ConnectionError("try again"))
    tenant = baggage.get_baggage("tenant_id")
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE IF NOT EXISTS orders (item TEXT, tenant TEXT)")
        )
        connection.execute(
            text("INSERT INTO orders VALUES (:item, :tenant)"),
            {"item": item, "tenant": tenant},
        )
    return tenant


@app.task
def tidy():
    """Beat's own work; each tick is a trace."""
