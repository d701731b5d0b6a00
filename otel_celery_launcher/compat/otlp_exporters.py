# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's OTLP exporters; imports nothing of it.

An exporter of the SDK says only whether a batch was taken, and retries by itself. The
exporter process wants the collector's answer, and decides itself. So it uses what such
an exporter is made of: its gRPC stub or HTTP session, with its headers, timeout and
certificates (``request``). For the exporter process.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MODULES = tuple(
    f"opentelemetry.exporter.otlp.proto.{each}.trace_exporter"
    for each in ("grpc", "http")
)
_METRIC_MODULES = tuple(
    f"opentelemetry.exporter.otlp.proto.{each}.metric_exporter"
    for each in ("grpc", "http")
)

_LOG_MODULES = tuple(
    f"opentelemetry.exporter.otlp.proto.{each}._log_exporter"
    for each in ("grpc", "http")
)

_RETRY_INFO = "google.rpc.retryinfo-bin"


class GrpcStatus(NamedTuple):
    """A gRPC call that failed."""

    code: str
    details: str
    retry_seconds: float | None


class HttpResponse(NamedTuple):
    """An HTTP response.

    Attributes:
        status: Its status; 0 if none came.
        reason: The text of the status, or of the failure.
        headers: With lower-case names as far as they are asked for.
        content: The body.
    """

    status: int
    reason: str
    retry_after: str = ""
    content: bytes = b""


def request_by(exporter: Any) -> Callable[[Sequence[Any]], Any] | None:
    """Return a function that sends a batch once; None for an exporter of another kind.

    A batch is a list of spans or log records, or the SDK's ``MetricsData``. The function returns the collector's response message (gRPC), a ``GrpcStatus`` or an
    ``HttpResponse``, and raises what encoding raises.
    """
    module = type(exporter).__module__
    if module not in (*_MODULES, *_METRIC_MODULES, *_LOG_MODULES):
        return None
    if ".grpc." in module:
        return _grpc_request(exporter)
    return _http_request(exporter)


def _grpc_request(exporter: Any) -> Callable[[Sequence[Any]], Any] | None:
    names = ("_client", "_translate_data", "_headers", "_timeout")
    if not all(hasattr(exporter, name) for name in names):
        return None
    from grpc import RpcError

    def request(items: Sequence[Any]) -> Any:
        data = exporter._translate_data(items)
        try:
            return exporter._client.Export(
                request=data,
                metadata=exporter._headers,
                timeout=exporter._timeout,
            )
        except RpcError as exc:
            return _status(exc)

    return request


def _status(error: Any) -> GrpcStatus:
    seconds = None
    for key, value in error.trailing_metadata() or ():
        if key == _RETRY_INFO:
            from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]
                RetryInfo,
            )

            delay = RetryInfo.FromString(value).retry_delay
            seconds = delay.seconds + delay.nanos / 1e9
    return GrpcStatus(error.code().name, error.details() or "", seconds)


def _http_request(exporter: Any) -> Callable[[Sequence[Any]], Any] | None:
    module: Any = sys.modules[type(exporter).__module__]
    client: Any = getattr(exporter, "_client", None)
    send: Callable[[bytes], HttpResponse]
    if hasattr(exporter, "_export"):  # before 1.45

        def send(data: bytes) -> HttpResponse:
            return _read_response(exporter._export(data))

    elif all(hasattr(client, name) for name in ("_submit", "_compress", "_timeout")):

        def send(data: bytes) -> HttpResponse:
            compressed = client._compress(data)
            return _read_result(client._submit(compressed, client._timeout))

    else:
        return None

    encodes = dict.fromkeys(_METRIC_MODULES, "encode_metrics")
    encodes |= dict.fromkeys(_LOG_MODULES, "encode_logs")

    def request(items: Sequence[Any]) -> HttpResponse:
        # Looked up each time: ``replace_encoder``.
        encode = getattr(module, encodes.get(module.__name__, "encode_spans"))
        data = encode(items).SerializePartialToString()
        try:
            return send(data)
        except OSError as exc:  # all errors of requests and urllib3 that matter here
            return HttpResponse(0, f"{type(exc).__name__}: {exc}")

    return request


def _read_response(response: Any) -> HttpResponse:
    """Read a response of ``requests``."""
    return HttpResponse(
        response.status_code,
        _reason(response.reason, response.content, is_ok=response.ok),
        response.headers.get("Retry-After", ""),
        response.content,
    )


def _read_result(result: Any) -> HttpResponse:
    """Read a result of ``opentelemetry-exporter-http-transport``."""
    if result.status_code is None:
        return HttpResponse(0, f"{type(result.error).__name__}: {result.error}")
    content = result.content()
    is_ok = result.status_code < 400
    return HttpResponse(
        result.status_code,
        _reason(result.reason, content, is_ok=is_ok),
        result.headers().get("Retry-After", ""),
        content,
    )


def _reason(reason: str | None, content: bytes, *, is_ok: bool) -> str:
    """Return the text of an answer: the body if it is one, else the status's own."""
    text = content[:300]
    if is_ok or not text or not text.isascii() or text[:1] == b"<" or b"\0" in text:
        return reason or ""
    shown = text.decode("ascii")
    return shown if shown.isprintable() else reason or ""


def limit_timeout(exporter: Any, seconds: float) -> None:
    """Let an exporter take so long for one request at most."""
    for holder in (exporter, getattr(exporter, "_client", None)):
        present = getattr(holder, "_timeout", None)
        if isinstance(present, (int, float)) and present > seconds:
            holder._timeout = seconds  # type: ignore[union-attr]


def close(exporter: Any) -> None:
    """Close an exporter and its connection; older gRPC exporters leave it open."""
    exporter.shutdown()
    channel = getattr(exporter, "_channel", None)
    if channel is not None:
        channel.close()


def replace_encoder(name: str, encode: Callable[..., Any]) -> None:
    """Give the OTLP exporters another encoder (in the exporter process).

    Args:
        name: Of the SDK's: ``encode_spans`` or ``encode_logs``.
        encode: Sanitizes what it encodes.
    """
    for each in (*_MODULES, *_LOG_MODULES):
        module: Any = sys.modules.get(each)
        if hasattr(module, name):
            setattr(module, name, encode)
            module.is_sanitizing = True


def takes_encoder(kind: Any) -> bool:
    """Return whether a class of exporters is one of OTLP/gRPC; HTTP has no place for it."""
    module = getattr(kind, "__module__", "")
    is_grpc = module in (*_MODULES, *_LOG_MODULES) and ".grpc." in module
    return is_grpc and hasattr(kind, "_translate_data")


def use_encoder(exporter: Any, encode: Callable[..., Any]) -> None:
    """Give one exporter that takes it another encoder; an application's own keep theirs."""
    exporter._translate_data = encode


def is_sanitizing(exporter: object) -> bool:
    """Return whether an exporter has the encoder of ``replace_encoder``."""
    module = sys.modules.get(type(exporter).__module__)
    return getattr(module, "is_sanitizing", False)


def let_repeated_errors_through() -> None:
    """Let the exporters log each failure, in the process that exports.

    Since 1.34 a filter swallows a record whose format is that of the one before it, so
    that another answer of the collector is not heard (``DuplicateFilter``). What the
    exporters log goes into one line a minute of ours anyway: ``routes/delivery_log.py``.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("opentelemetry.exporter") and isinstance(
            logger, logging.Logger
        ):
            logger.filters[:] = [
                each
                for each in logger.filters
                if type(each).__name__ != "DuplicateFilter"
            ]
