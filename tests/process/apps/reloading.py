"""A development worker under Django's autoreloader: restarted when a file changes."""

from __future__ import annotations

import os
import subprocess
import sys

import django
import psutil
from django.conf import settings
from django.utils import autoreload

urlpatterns = []
MARKER = "reloaded@x"


def restart():
    """What `pkill -f` and a new worker do in the usual recipes."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if MARKER in words and process.environ().get("HOME") == os.environ["HOME"]:
            process.terminate()
            process.wait(20)
    subprocess.call([sys.argv[1], "-A", "shop", "worker", "-l", "INFO", "-n", MARKER])


if __name__ == "__main__":
    settings.configure(ROOT_URLCONF="reloading")
    django.setup()
    autoreload.run_with_reloader(restart)
