"""The project's Celery application."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site.settings")

if "DJANGO_CONFIGURATION" in os.environ:
    import configurations

    configurations.setup()

app = Celery("django_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["django_site"])
