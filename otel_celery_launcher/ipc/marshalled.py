# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Values as bytes, between processes of one interpreter: ``marshal``, and resources.

``marshal`` writes a span in about 3 µs. It reads only data of the same interpreter,
which both ends are (``sys.executable``). It is not safe against forged input, so a
message's checksum is verified first (``datagrams.py``).
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.ipc.datagrams import RESOURCE_BYTES, FrameError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

# What a message that passed its checksum can raise when another version wrote it.
READ_ERRORS = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)


def dump(record: Any) -> bytes:
    """Return a value as bytes.

    Raises:
        ValueError: A value that is in itself, or lies too deep.
    """
    try:
        return marshal.dumps(record)
    except ValueError:  # an enumeration, a subclass of str, any other object
        return marshal.dumps(to_builtins(record))


def load(data: bytes) -> Any:
    """Return the value that ``dump`` was given.

    Raises:
        Exception: One of ``READ_ERRORS``: it was another version's.
    """
    return marshal.loads(data)  # noqa: S302 - checksummed, and written by ourselves


def to_builtins(value: Any) -> Any:
    """Return a value in the types that ``marshal`` knows."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # an enumeration's own str() is its name
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Mapping):
        return {to_builtins(key): to_builtins(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(to_builtins(item) for item in value)
    if isinstance(value, Iterable):
        return [to_builtins(item) for item in value]
    return repr(value)


def encode_resource(resource: Resource) -> bytes:
    """Return a resource as bytes; called once for each resource of a process.

    One that is too large for a message loses its longest attributes.
    """
    data = dump((dict(resource.attributes), resource.schema_url))
    if len(data) <= RESOURCE_BYTES:
        return data
    kept = without_longest(resource.attributes, RESOURCE_BYTES)
    return dump((kept, resource.schema_url))


def without_longest(attributes: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the attributes without the longest, so that they have this number of bytes at most."""
    sizes = {key: len(dump((key, value))) for key, value in attributes.items()}
    total = sum(sizes.values()) + 64
    kept = dict(attributes)
    for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total <= size:
            break
        total -= sizes[key]
        del kept[key]
    return kept


def read_resource(data: bytes) -> Resource:
    """Return a resource (exporter process).

    Raises:
        FrameError: Not written by this version.
    """
    from opentelemetry.sdk.resources import Resource

    try:
        attributes, schema_url = load(data)
        return Resource(attributes, schema_url)
    except READ_ERRORS as exc:
        raise FrameError(f"not a resource: {exc!r}") from exc
