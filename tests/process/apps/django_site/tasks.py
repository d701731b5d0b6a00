"""A task that asks the database."""

from __future__ import annotations

from celery import shared_task
from django.db import connection


@shared_task
def ask():
    with connection.cursor() as cursor:
        return cursor.execute("select 42").fetchone()[0]
