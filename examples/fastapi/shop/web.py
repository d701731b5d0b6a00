"""The web process: an order is taken and charged later."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Header
from opentelemetry import baggage, context

from shop.tasks import charge

app = FastAPI()


@app.post("/orders/{item}")
async def order(item: str, x_tenant: str = Header("nobody")):
    """Publish from an asynchronous handler, in a thread: the context goes along."""
    context.attach(baggage.set_baggage("tenant_id", x_tenant))
    result = await asyncio.to_thread(charge.delay, item)
    return {"task": result.id}
