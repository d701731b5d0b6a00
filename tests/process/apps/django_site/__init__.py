"""A Django project as Celery's documentation lays it out."""

from __future__ import annotations

from django_site.celery import app as celery_app

__all__ = ("celery_app",)
