"""A web service of ``plain.py``, for gunicorn and for uvicorn."""

from __future__ import annotations

import plain


def order():
    plain.noop.delay()
    return str(plain.imported_apart())


try:
    from fastapi import FastAPI
except ImportError:
    from flask import Flask

    wsgi = Flask("plain_web")
    wsgi.get("/order")(order)
else:
    asgi = FastAPI()
    asgi.get("/order")(order)
