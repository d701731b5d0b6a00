"""The shop, which closes what it did not open and gives the numbers to its own files.

Daemonizing libraries do so. DECOYS names the folder of the files.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from celery import signals
from opentelemetry import trace
from shop import app

tracer = trace.get_tracer("decoys")
folder = Path(os.environ["DECOYS"])
decoys = {}


def is_channel(number):
    """Whether a number is a socket that keeps messages whole: ours."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
    except OSError:
        return False
    with socket.socket(fileno=os.dup(number)) as copy:
        return copy.type == socket.SOCK_SEQPACKET


def is_free(number):
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def take_over(**_):
    for number in range(3, 64):
        if is_channel(number) or is_free(number):
            decoy = os.open(folder / f"{os.getpid()}-{number}", os.O_CREAT | os.O_RDWR)
            if decoy != number:
                os.dup2(decoy, number)
                os.close(decoy)
            decoys[number] = os.fstat(number).st_ino


signals.worker_process_init.connect(take_over, weak=False)
signals.beat_init.connect(take_over, weak=False)
signals.beat_embedded_init.connect(take_over, weak=False)


@app.task(name="decoys.check")
def check():
    """Return whether every number is still the file it was given to."""
    with tracer.start_as_current_span("inner"):
        pass
    return bool(decoys) and all(
        os.fstat(number).st_ino == inode for number, inode in decoys.items()
    )
