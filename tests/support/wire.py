"""An OTLP/gRPC receiver that keeps the very bytes of each request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator


class Request(bytes):
    """The bytes of a request, and of which signal it is."""

    method: str

    @property
    def is_of_traces(self) -> bool:
        return "TraceService" in self.method


class _AnyMethod(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, requests: list[Request]) -> None:
        self._requests = requests

    def service(self, details: Any) -> Any:
        def take(data: bytes, _: object) -> bytes:
            request = Request(data)
            request.method = details.method
            self._requests.append(request)
            return b""  # a response without a word

        return grpc.unary_unary_rpc_method_handler(take)


@contextmanager
def wire() -> Iterator[tuple[str, list[Request]]]:
    """Listen; yield the endpoint and the requests of all signals."""
    requests: list[Request] = []
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((_AnyMethod(requests),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", requests
    server.stop(grace=None).wait(5)
