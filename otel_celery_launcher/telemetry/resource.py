# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The resource: the attributes that describe a process, the same for all signals.

Made once in each interpreter, before the application is imported. A pool child replaces
it after its fork.
"""

from __future__ import annotations

import socket
import uuid
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource

from otel_celery_launcher import __version__
from otel_celery_launcher.compat import providers
from otel_celery_launcher.delivery.sanitizing import sanitize_value

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from otel_celery_launcher.settings.settings import Settings

# https://opentelemetry.io/docs/specs/semconv/resource/service/ (UUIDv5 namespace)
INSTANCE_ID_NAMESPACE = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")


def make_resource(settings: Settings) -> Resource:
    """Return the resource of a main process; runs the resource detectors."""
    attributes = {
        "service.name": settings.service_name,
        "celery.role": settings.role,
        "telemetry.distro.name": "otel-celery",
        "telemetry.distro.version": __version__,
    }
    if not settings.has_instance_id:
        attributes["service.instance.id"] = _instance_id(settings, "main")
    resource = Resource.create(attributes)
    # The environment's bytes need not be text: a lone surrogate stands for each that is not.
    return Resource(sanitize_value(resource.attributes), resource.schema_url)


def complete_resource(provider: TracerProvider, settings: Settings) -> None:
    """Add what a provider that is not ours lacks."""
    present = dict(provider.resource.attributes)
    if str(present.get("service.name", "")).startswith("unknown_service"):
        del present["service.name"]
    providers.set_resource(
        provider, Resource({**make_resource(settings).attributes, **present})
    )


def slot_resource(
    main: Resource, settings: Settings, slot: str, *, pid: int, parent_pid: int
) -> Resource:
    """Return the resource of the process in a slot of the pool.

    Its ``service.instance.id`` is the same for a successor in that slot.

    Args:
        main: The main process's resource.
        settings: The settings of the worker.
        slot: Number of the slot, or ``beat``.
        pid: Process id of the process in the slot.
        parent_pid: Process id of the main process.
    """
    attributes = {**main.attributes}
    if "process.pid" in attributes:  # the process detector ran in the parent
        attributes["process.pid"] = pid
        attributes["process.parent_pid"] = parent_pid
    if not settings.has_instance_id:
        attributes["service.instance.id"] = _instance_id(settings, slot)
    return Resource(attributes)


def _instance_id(settings: Settings, slot: str) -> str:
    """Return a stable ``service.instance.id`` for a slot of a worker on a host."""
    parts = (settings.service_name, socket.gethostname(), settings.node, slot)
    return str(uuid.uuid5(INSTANCE_ID_NAMESPACE, "/".join(parts)))
