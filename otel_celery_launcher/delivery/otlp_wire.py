# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of OTLP messages as bytes: what spans and log records have in common.

The wire format is that of https://protobuf.dev/programming-guides/encoding/ and the field
numbers those of opentelemetry/proto/common/v1/common.proto, which never change. Runs in
the exporter process's sending threads.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

# How many pairs of a resource and a scope, and sets of shared attributes, are cached.
GROUPS_KEPT = 512

# How many encoded parts are cached, and of which length a key is not.
KEPT = 4096
LONG = 128  # characters
_KEPT_NUMBERS = frozenset({bool, int})

_DOUBLE = struct.Struct("<d")
LOW = 2**64 - 1


class OtherKindError(Exception):
    """A value is not of the kinds that are encoded here: the SDK has to be asked."""


def attribute(tag: bytes, key: str, item: Any) -> bytes:
    """Return an attribute with tag and length; what recurs of it is kept.

    Raises:
        OtherKindError: Its value is of another kind.
        UnicodeEncodeError: A text is none.
    """
    if len(key) >= LONG:
        return _attribute(tag, key, item)
    kind = type(item)
    if kind is str:
        data: bytes = item.encode()
        return _text_head(tag, key, len(data)) + data
    if kind is float:
        return _double_head(tag, key) + _DOUBLE.pack(item)
    if kind in _KEPT_NUMBERS:
        return _kept_attribute(tag, key, item)
    return _attribute(tag, key, item)


def _attribute(tag: bytes, key: str, item: Any) -> bytes:
    pair = _key(key) + b"\x12" + sized(value(item))
    return tag + sized(pair)  # key = 1, value = 2


def _make_text_head(tag: bytes, key: str, length: int) -> bytes:
    """Return what precedes the bytes of a text in an attribute."""
    head = b"\x0a" + varint(length)
    head = _key(key) + b"\x12" + varint(len(head) + length) + head
    return tag + varint(len(head) + length) + head


def _make_double_head(tag: bytes, key: str) -> bytes:
    """Return what precedes the eight bytes of a number in an attribute."""
    return _attribute(tag, key, 0.0)[: -_DOUBLE.size]


_text_head: Callable[[bytes, str, int], bytes] = lru_cache(KEPT)(_make_text_head)
_double_head: Callable[[bytes, str], bytes] = lru_cache(KEPT)(_make_double_head)


_kept_attribute = lru_cache(KEPT, typed=True)(_attribute)


def value(item: Any) -> bytes:
    """Return an ``AnyValue`` without tag and length."""
    kind = type(item)
    if kind is str:
        return b"\x0a" + text(item)
    if kind is float:
        return b"\x21" + _DOUBLE.pack(item)
    if kind is bool:
        return b"\x10\x01" if item else b"\x10\x00"
    if kind is int and -(2**63) <= item < 2**63:
        return b"\x18" + varint(item & LOW)
    if kind is tuple or kind is list:
        parts = [b"\x0a" + sized(value(each)) for each in item]
        return b"\x2a" + sized(b"".join(parts))  # array_value = 5
    raise OtherKindError


def _key(key: str) -> bytes:
    return b"\x0a" + text(key) if key else b""  # key = 1


def text(characters: str) -> bytes:
    """Return a text after its length."""
    return sized(characters.encode())


def sized(data: bytes) -> bytes:
    """Return bytes after their length."""
    return varint(len(data)) + data


def varint(number: int) -> bytes:
    """Return a number that is not negative."""
    if number < 128:
        return _BYTES[number]
    data = bytearray()
    while number >= 128:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


_BYTES = [bytes((number,)) for number in range(128)]


class Headers:
    """What a resource and a scope are in a request, without any item; the last are kept.

    Args:
        encode: Returns both, of any item.
    """

    def __init__(self, encode: Callable[[Any], tuple[bytes, bytes]]) -> None:
        self._encode = encode
        self._kept: dict[Hashable, tuple[Any, bytes, bytes]] = {}

    def of(self, key: Hashable, resource: Any, item: Any) -> tuple[bytes, bytes]:
        """Return the headers of an item.

        Args:
            key: The identity of the resource, and the scope.
            resource: Its resource, whose identity may be another's by now.
            item: Any item with both.
        """
        known = self._kept.get(key)
        if known is None or known[0] is not resource:
            if len(self._kept) >= GROUPS_KEPT:
                self._kept.clear()
            known = self._kept[key] = (resource, *self._encode(item))
        return known[1], known[2]


def blocks(groups: Iterable[tuple[tuple[bytes, bytes], Iterable[bytes]]]) -> bytes:
    """Return the blocks of a request, one for each pair of a resource and a scope.

    Args:
        groups: Headers of each, and its items, without their tag and length.
    """
    parts = []
    for (resource_header, scope_header), items in groups:
        # items = 2 of the scope's, which is 2 of the resource's, which is 1
        scope = scope_header + b"".join([b"\x12" + sized(each) for each in items])
        parts.append(b"\x0a" + sized(resource_header + b"\x12" + sized(scope)))
    return b"".join(parts)
