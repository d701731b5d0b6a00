# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What a series is in the page: its head, its key, and its cells.

    length  key length  kind  flags  created  checksum | key, padded | cells: 8 bytes each

The length is written last: a series whose length is 0 does not exist yet. Cells are read
and written one at a time; each is an aligned 8-byte word, so a reader sees it whole.
"""

from __future__ import annotations

import enum
import marshal
import math
import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from otel_celery_launcher.errors import MALFORMED_ERRORS

WORD = 8

# length of the whole series in bytes, length of the key, kind, flags, nanoseconds since
# the epoch at which it was made, checksum of the key
HEAD = struct.Struct("=IHBBQI4x")
LENGTH = struct.Struct("=I")

# Flag of a series with room for exemplars.
EXEMPLARS = 1

# time in nanoseconds, value, span id, trace id in two halves
EXEMPLAR_WORDS = 5

# Longer texts of attributes are cut, and a longer key is not stored.
TEXT_CHARACTERS = 1000
KEY_BYTES = 4000

# Attributes of a point that stands for all that found no room of their own
# (https://opentelemetry.io/docs/specs/otel/metrics/sdk/#overflow-attribute).
OVERFLOW = (("otel.metric.overflow", True),)

# How many sets of attributes an instrument has: the SDK's own limit.
SETS = 2000

# The exponential histogram has one resolution and one range: a bucket never has to be
# rewritten, so nothing can be torn. Eight buckets double the value (scale 3).
EXPONENT_SCALE = 3
BUCKETS_PER_DOUBLING = 8
EXPONENT_LOWEST = -24 * BUCKETS_PER_DOUBLING
EXPONENT_BUCKETS = 64 * BUCKETS_PER_DOUBLING
EXPONENT_EXEMPLARS = 8

# What the SDK's histograms have without an advice
# (https://opentelemetry.io/docs/specs/otel/metrics/sdk/#explicit-bucket-histogram-aggregation).
DEFAULT_BOUNDARIES = (
    *(0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0),
    *(2500.0, 5000.0, 7500.0, 10000.0),
)

_INT64 = range(-(2**63), 2**63)


class Kind(enum.IntEnum):
    """What a series counts, and how the rows of several processes become one value."""

    COUNTER = 1  # the sum of all rows
    UP_DOWN = 2  # the sum of the rows whose process lives
    HISTOGRAM = 3  # the sums of all rows
    EXPONENTIAL = 4  # likewise
    GAUGE = 5  # the last one that a living process wrote
    OBSERVED_COUNTER = (
        6  # the sum of all rows: of earlier processes, and the present one
    )
    OBSERVED_UP_DOWN = 7  # the sum of the rows whose process lives
    ABSOLUTE = 8  # the largest: a count that its source keeps over all processes
    SINCE = 9  # seconds since a moment; the last one that a living process wrote
    OBSERVED_GAUGE = 10  # the last one that a living process wrote not long ago


# Value and whether it is a float; sum, min, max and the same; base and current value and
# the same; value, time and the same.
SUM_WORDS = 2
HISTOGRAM_WORDS = 4
# The fourth word of an observed counter is the base that is about to be written.
OBSERVED_WORDS = 4
LAST_WORDS = 3

# Which word of a series says that a measurement was no whole number.
IS_FLOAT = {
    Kind.COUNTER: 1,
    Kind.UP_DOWN: 1,
    Kind.HISTOGRAM: 3,
    Kind.EXPONENTIAL: 3,
    Kind.GAUGE: 2,
    Kind.OBSERVED_COUNTER: 2,
    Kind.OBSERVED_UP_DOWN: 2,
    Kind.ABSOLUTE: 1,
    Kind.SINCE: 2,
    Kind.OBSERVED_GAUGE: 2,
}

# Kinds whose value ends with the process that wrote it.
OF_THE_LIVING = frozenset(
    {
        Kind.UP_DOWN,
        Kind.GAUGE,
        Kind.OBSERVED_UP_DOWN,
        Kind.OBSERVED_GAUGE,
        Kind.SINCE,
    }
)

# Kinds that have exemplars.
_WITH_EXEMPLARS = frozenset({Kind.COUNTER, Kind.HISTOGRAM, Kind.EXPONENTIAL})


class Description(NamedTuple):
    """An instrument: all that its series have in common.

    Attributes:
        kind: A ``Kind``.
        name: In small letters.
        unit: As the metric's conventions write it: ``s``, ``{task}``.
        description: A sentence; may be empty.
        scope: Name, version, schema URL and attributes of the meter.
        boundaries: Of an explicit histogram.
    """

    kind: Kind
    name: str
    unit: str = ""
    description: str = ""
    scope: tuple[str, str, str, tuple[Any, ...]] = ("", "", "", ())
    boundaries: tuple[float, ...] = ()

    @property
    def exemplars(self) -> int:
        """For how many exemplars there is room."""
        if self.kind is Kind.HISTOGRAM:
            return len(self.boundaries) + 1
        if self.kind is Kind.EXPONENTIAL:
            return EXPONENT_EXEMPLARS
        return 1 if self.kind in _WITH_EXEMPLARS else 0

    @property
    def first_exemplar(self) -> int:
        """The word at which exemplars begin: behind all others."""
        if self.kind is Kind.HISTOGRAM:
            return HISTOGRAM_WORDS + len(self.boundaries) + 1
        if self.kind is Kind.EXPONENTIAL:
            return HISTOGRAM_WORDS + 1 + EXPONENT_BUCKETS
        if self.kind in (Kind.COUNTER, Kind.UP_DOWN, Kind.ABSOLUTE):
            return SUM_WORDS
        return OBSERVED_WORDS if self.kind is Kind.OBSERVED_COUNTER else LAST_WORDS

    def as_exponential(self) -> Description:
        """Return a histogram as one whose buckets grow with the values."""
        return self._replace(kind=Kind.EXPONENTIAL, boundaries=())

    def bucket(self, amount: float) -> int:
        """Return which bucket of a histogram a value of 0 or more belongs into, from 0."""
        if self.kind is Kind.EXPONENTIAL:
            return exponential_bucket(amount)
        return bisect_left(self.boundaries, amount)

    def words(self, *, has_exemplars: bool) -> int:
        """Return how many cells a series has."""
        extra = self.exemplars * EXEMPLAR_WORDS if has_exemplars else 0
        return self.first_exemplar + extra


# Attributes, sorted and cleaned.
Items = tuple[tuple[str, Any], ...]


def key_of(description: Description, items: Items) -> bytes:
    """Return the key of a series: the same bytes in every process of a worker.

    Version 2 of ``marshal`` has no back references, which would depend on how often an
    object is used. It tells True from 1, and 1 from 1.0.
    """
    kind, name, unit, text, scope, boundaries = description
    return marshal.dumps((int(kind), name, unit, text, scope, boundaries, items), 2)


def read_key(data: bytes) -> tuple[Description, Items]:
    """Return instrument and attributes of a key.

    Raises:
        Exception: One of ``marshalled.READ_ERRORS``: the page is damaged.
    """
    kind, name, unit, description, scope, boundaries, items = marshal.loads(data)  # noqa: S302 - written by our own processes
    read = Description(Kind(kind), name, unit, description, scope, boundaries)
    dict(items)  # raises for anything but pairs
    return read, items


def clean_items(attributes: Mapping[str, Any]) -> Items:
    """Return attributes as a key has them: sorted, in types that every exporter takes.

    Raises:
        Exception: One of ``errors.MALFORMED_ERRORS``: they cannot be read.
    """
    items = [
        (clean_text(str(key)), _clean_value(value))
        for key, value in attributes.items()
        if key and value is not None
    ]
    return tuple(sorted(items, key=lambda item: item[0]))


def _clean_value(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, int):
        return int(value) if value in _INT64 else str(int(value))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return tuple(_clean_value(each) for each in value)
    return clean_text(str(value))


def clean_text(text: str) -> str:
    """Return a text that every exporter takes, cut to a thousand characters."""
    text = str.__str__(text)[:TEXT_CHARACTERS]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def boundaries_of(advice: object) -> tuple[float, ...]:
    """Return boundaries of an explicit histogram; for bad ones the default."""
    if not isinstance(advice, Sequence) or isinstance(advice, (str, bytes)):
        return DEFAULT_BOUNDARIES
    try:
        boundaries = tuple(float(each) for each in advice)
    except MALFORMED_ERRORS:
        return DEFAULT_BOUNDARIES
    is_sorted = all(low < high for low, high in pairwise(boundaries))
    are_finite = all(map(math.isfinite, boundaries))
    return boundaries if is_sorted and are_finite else DEFAULT_BOUNDARIES


def exponential_bucket(value: float) -> int:
    """Return the cell of an exponential histogram for a value of 0 or more.

    The first one is for 0; the others are those of ``exponent_bucket``.
    """
    return 1 + exponent_bucket(value) if value > 0 else 0


def exponent_bucket(value: float) -> int:
    """Return the bucket of an exponential histogram for a value over 0.

    Bucket ``i`` is for values over 2 ** (i / 8) up to 2 ** ((i + 1) / 8), counted from
    EXPONENT_LOWEST; values outside go into the first and the last one.
    """
    fraction, exponent = math.frexp(value)  # value = fraction * 2 ** exponent
    doublings = math.log2(fraction) + exponent
    index = math.ceil(doublings * BUCKETS_PER_DOUBLING) - 1 - EXPONENT_LOWEST
    return min(max(index, 0), EXPONENT_BUCKETS - 1)
