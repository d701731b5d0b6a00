"""A Flask application that publishes tasks, from the handler and from a thread pool."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from flask import Flask
from shop import noop

app = Flask(__name__)
pool = ThreadPoolExecutor(2)


@app.get("/publish")
def publish():
    pool.submit(noop.delay).result()
    return noop.delay().id


@app.get("/line")
def line():
    logging.getLogger("site").warning("a line of a request")
    return "written"
