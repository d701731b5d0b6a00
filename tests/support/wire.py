"""An OTLP/gRPC receiver that keeps the very bytes of each request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator


class _AnyMethod(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, requests: list[bytes]) -> None:
        self._requests = requests

    def service(self, _: object) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._take)

    def _take(self, request: bytes, _: object) -> bytes:
        self._requests.append(request)
        return b""  # an ExportTraceServiceResponse without a word


@contextmanager
def wire() -> Iterator[tuple[str, list[bytes]]]:
    """Listen; yield the endpoint and the requests."""
    requests: list[bytes] = []
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((_AnyMethod(requests),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", requests
    server.stop(grace=None).wait(5)
