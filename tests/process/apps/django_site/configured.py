"""The same settings as a class of django-configurations."""

from __future__ import annotations

from configurations import Configuration

from django_site import settings


class Dev(Configuration):
    """Chosen by DJANGO_CONFIGURATION."""

    SECRET_KEY = settings.SECRET_KEY
    INSTALLED_APPS = settings.INSTALLED_APPS
    DATABASES = settings.DATABASES
    USE_TZ = True
    CELERY_BROKER_URL = CELERY_RESULT_BACKEND = settings.CELERY_BROKER_URL
    CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
