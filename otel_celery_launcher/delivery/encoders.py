# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Finds our own encoder of a signal, if it makes what the installed SDK's makes.

Runs where items are exported: in the exporter process, or inline.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.signals import LOGS, TRACES

if TYPE_CHECKING:
    from collections.abc import Callable


class Encoder(NamedTuple):
    """An encoder.

    Attributes:
        name: Of the SDK's function that it stands for.
        encode: Makes a request of items; values that no request may have are replaced.
    """

    name: str
    encode: Callable[..., Any]


# By number of the signal: a module of this package, and its function.
_ENCODERS = {
    TRACES.number: ("span_encoder", "encode_spans"),
    LOGS.number: ("log_encoder", "encode_logs"),
}


@cache
def own_encoder(signal: int) -> Encoder | None:
    """Return the encoder of a signal; imports protobuf.

    Args:
        signal: Its number.

    Returns:
        None if there is none, or anything in protobuf or the SDK is not as expected.
    """
    if signal not in _ENCODERS:
        return None
    module, function = _ENCODERS[signal]
    try:
        encoder = import_module(f"{__package__}.{module}")
        is_faithful = encoder.is_faithful()
    except Exception:  # noqa: BLE001 - of another release's encoder or protobuf
        return None
    return Encoder(function, getattr(encoder, function)) if is_faithful else None
