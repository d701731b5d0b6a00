"""Pools of an application's own, for CELERY_CUSTOM_WORKER_POOL."""

from __future__ import annotations

from celery.concurrency.prefork import TaskPool as Prefork
from celery.concurrency.thread import TaskPool as Threads


class Custom(Threads):
    """Threads under another name."""


class Forking(Prefork):
    """Prefork under another name."""
