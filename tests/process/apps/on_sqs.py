"""An application whose broker is SQS: ``moto_server`` at ``SQS_PORT``."""

from __future__ import annotations

import os
import time

from celery import Celery

app = Celery("on_sqs", broker=f"sqs://key:secret@127.0.0.1:{os.environ['SQS_PORT']}//")
app.conf.broker_transport_options = {
    "is_secure": False,
    "region": "us-east-1",
    "polling_interval": 0.2,
    "wait_time_seconds": 0,
}
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_enable_remote_control = False


@app.task
def noop():
    return None


@app.task
def nap():
    time.sleep(60)
