"""A task that asks everybody; names are imported early, as applications do."""

from __future__ import annotations

import os
from sqlite3 import connect

import httpx
import requests
from psycopg import connect as connect_to_postgres
from redis import Redis
from shop import app, tracer
from sqlalchemy import create_engine, text

engine = create_engine("sqlite://")


@app.task(name="downstream.ask")
def ask():
    with tracer.start_as_current_span("numeric work"):
        sum(range(1000))
    connect(":memory:").cursor().execute("select 1")
    with connect_to_postgres(os.environ["SHOP_POSTGRES"]) as connection:
        connection.execute("select 3")
    with engine.connect() as connection:
        connection.execute(text("select 2"))
    Redis.from_url(os.environ["SHOP_BROKER"]).get("key")
    for client in (requests, httpx):
        client.get(os.environ["SHOP_PAGE"], timeout=5)
