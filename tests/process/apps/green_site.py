"""A Flask application that calls HTTPS by requests and publishes; on greenlets."""

from __future__ import annotations

import os
import sys

if os.environ.get("SITE_PATCHES") == "1":
    from gevent import monkey

    monkey.patch_all()

import requests
from flask import Flask
from shop import noop

app = Flask(__name__)


@app.get("/call")
def call():
    answer = requests.get(os.environ["SITE_URL"], timeout=5, verify=False)
    noop.delay()
    return f"{answer.status_code} {'grpc' in sys.modules}"


if __name__ == "__main__":
    from gevent.pywsgi import WSGIServer

    WSGIServer(("127.0.0.1", int(sys.argv[1])), app).serve_forever()
