"""Settings of the project."""

from __future__ import annotations

import os
from pathlib import Path

SECRET_KEY = "not a secret"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ["HOME"]) / "db.sqlite3",
    }
}
USE_TZ = True
DEBUG = True
ROOT_URLCONF = "django_site.urls"
CELERY_BROKER_URL = CELERY_RESULT_BACKEND = os.environ["SHOP_BROKER"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
