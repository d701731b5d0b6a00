# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of single values: each returns the value to use or raises ``BadValueError``.

Pure functions, run in the launcher before the SDK is imported. Names of components are
looked up among the installed entry points only when they are not the built-in ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points, version
from string import Formatter
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.ipc.tree import has_component

if TYPE_CHECKING:
    from otel_celery_launcher.signals import Signal

PATH_SEPARATOR = os.pathsep

# Limit for a value in a line. Longer values are likely keys or whole files.
PRINTED_CHARACTERS = 200

HIGHEST = 2**31 - 1

# Maps a value as written to the value that the SDK shall see; None unsets it.
Check = Callable[[str], "str | None"]

BUILTIN = {
    "opentelemetry_traces_sampler": frozenset(
        {
            "always_off",
            "always_on",
            "parentbased_always_off",
            "parentbased_always_on",
            "parentbased_traceidratio",
            "traceidratio",
        }
    ),
    "opentelemetry_propagator": frozenset({"baggage", "tracecontext"}),
    "opentelemetry_traces_exporter": frozenset({"console", "otlp_proto_grpc"}),
    "opentelemetry_id_generator": frozenset({"random"}),
    "opentelemetry_context": frozenset({"contextvars_context"}),
    "opentelemetry_resource_detector": frozenset({"otel", "process"}),
}


# Before, opentelemetry/propagate raises at its import for this word.
NONE_PROPAGATOR_SINCE = (1, 33)


class BadValueError(Exception):
    """A value that does not fit.

    Args:
        expected: What would fit.
        kept: The part of the value that does; None where there is none.
    """

    def __init__(self, expected: str, kept: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.kept = kept


# Means every component of a group.
ALL = "*"


def is_installed(group: str, name: str) -> bool:
    """Return whether a component of that entry point group is installed."""
    return (
        name in BUILTIN.get(group, ())
        or bool(entry_points(group=group, name=name))
        or has_component(group, name)
    )


def load_component(group: str, name: str) -> Any:
    """Import and return an installed component.

    Raises:
        Exception: What a third-party module raises.
    """
    return next(iter(entry_points(group=group, name=name))).load()


def split_names(value: str) -> list[str]:
    """Return the names of a list separated by commas."""
    return [name.strip() for name in value.split(",") if name.strip()]


def text(value: str) -> str:
    """Accept anything."""
    return value


def boolean(value: str) -> str:
    """Accept our booleans: true false 1 0 yes no on off, any case."""
    if value.lower() in ("true", "1", "yes", "on"):
        return "true"
    if value.lower() in ("false", "0", "no", "off"):
        return "false"
    raise BadValueError("true or false")


def otel_boolean(value: str) -> str:
    """Accept OpenTelemetry's booleans: only true, in any case, is true.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#boolean
    """
    if value.lower() in ("true", "false"):
        return value.lower()
    raise BadValueError("true or false")


def one_of(*choices: str) -> Check:
    """Return a check for one of some words, in any case."""

    def check(value: str) -> str:
        if value.lower() in choices:
            return value.lower()
        raise BadValueError(" or ".join(choices))

    return check


def number(lowest: float, highest: float, *, over: bool = False) -> Check:
    """Return a check for a number within bounds; ``over`` leaves the lowest out."""

    def check(value: str) -> str:
        try:
            amount = float(value)
        except ValueError:
            amount = -1.0
        is_high_enough = amount > lowest if over else amount >= lowest
        if is_high_enough and amount <= highest:
            return value
        start = f"over {lowest:g} and up" if over else f"from {lowest:g}"
        raise BadValueError(f"a number {start} to {highest:g}")

    return check


def whole_number(lowest: int) -> Check:
    """Return a check for a whole number of at least ``lowest``.

    Lengths and waits of C's take no more than 31 bits everywhere.
    """

    def check(value: str) -> str:
        try:
            amount = int(value)
        except ValueError:
            amount = -1
        if lowest <= amount <= HIGHEST:
            return value
        raise BadValueError(f"a whole number from {lowest} to {HIGHEST}")

    return check


def installed_one(group: str) -> Check:
    """Return a check for the name of one installed component."""

    def check(value: str) -> str:
        if is_installed(group, value):
            return value
        raise BadValueError(f"an installed {_kind(group)}")

    return check


def installed(group: str) -> Check:
    """Return a check for names of installed components; the known ones are kept.

    ``*`` means all; earlier releases of the SDK look for a component of that name.
    """

    def check(value: str) -> str | None:
        known, unknown = _sort_names(group, value, (ALL,))
        if ALL in known:
            every = sorted({each.name for each in entry_points(group=group)})
            known = [*dict.fromkeys([*(name for name in known if name != ALL), *every])]
        used = ",".join(known) or None
        if unknown:
            expected = f"installed {_kind(group)}s; {_unknown(unknown)}"
            raise BadValueError(expected, used)
        return used

    return check


def propagators(value: str) -> str | None:
    """Accept installed propagators; the SDK raises at import for any other.

    An empty name between two commas is one of those.
    """
    known, unknown = _sort_names("opentelemetry_propagator", value, ("none",))
    if unknown:
        raise BadValueError(
            f"installed propagators; {_unknown(unknown)}",
            ",".join(known) or None,
        )
    if "none" in known and release_of("opentelemetry-api") < NONE_PROPAGATOR_SINCE:
        rest = [name for name in known if name != "none"]
        raise BadValueError(
            "installed propagators; none came with opentelemetry-api 1.33",
            ",".join(rest) or None,
        )
    return ",".join(known) or None


def release_of(distribution: str) -> tuple[int, ...]:
    """Return the release of an installed distribution: major and minor number."""
    return tuple(int(part) for part in version(distribution).split(".")[:2])


def sampler(value: str) -> str:
    """Accept an installed sampler; the SDK's own in any case, as the SDK does."""
    for name in (value, value.lower()):
        if is_installed("opentelemetry_traces_sampler", name):
            return name
    raise BadValueError("an installed sampler")


def sampler_argument(value: str, sampler_name: str) -> str | None:
    """Accept a ratio for the samplers that take one, else anything."""
    if not sampler_name.endswith("traceidratio"):
        return value
    try:
        if 0 <= float(value) <= 1:
            return value
    except ValueError:
        pass
    raise BadValueError("a ratio from 0 to 1")


def exporters(signal: Signal) -> Check:
    """Return a check for otlp, console, none, or the names of installed exporters."""

    def check(value: str) -> str | None:
        known, unknown = _sort_names(signal.exporter_group, value, ("otlp", "none"))
        if unknown:
            raise BadValueError(
                f"otlp, console, none or installed exporters; {_unknown(unknown)}",
                ",".join(known) or None,
            )
        return ",".join(known) or None

    return check


def resource_attributes(value: str) -> str | None:
    """Accept key=value pairs."""
    items = [item for item in value.split(",") if item.strip()]
    good = [item for item in items if item.partition("=")[0].strip() and "=" in item]
    if good != items:
        raise BadValueError(
            "key=value pairs, separated by commas", ",".join(good) or None
        )
    return ",".join(good) or None


def service_name_template(value: str) -> str:
    """Accept text with {name} and {role} as they are: no width, no attribute of them."""
    try:
        fields = [each[1:] for each in Formatter().parse(value) if each[1] is not None]
    except ValueError:
        fields = [("", "", None)]
    if all(field in (("name", "", None), ("role", "", None)) for field in fields):
        return value
    raise BadValueError("text with {name} and {role}, such as {name}-{role}")


def is_printable(value: str) -> bool:
    """Return whether a value may stand in a line: one that is short, and no key."""
    return len(value) <= PRINTED_CHARACTERS and value.isprintable()


def safe_repr(value: str) -> str:
    """Return a value as a line may have it; a pasted key is never shown."""
    if is_printable(value):
        return repr(value)
    return f"({len(value)} characters, not shown)"


def printable(value: str) -> str:
    """Return a value as a line may have it, to be typed; a pasted key is never shown."""
    return value if is_printable(value) else safe_repr(value)


def _sort_names(
    group: str, value: str, also: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    names = split_names(value)
    known = [name for name in names if name in also or is_installed(group, name)]
    return known, [name for name in names if name not in known]


def _unknown(names: list[str]) -> str:
    return f"{', '.join(map(safe_repr, names))} is not installed or misspelt"


def _kind(group: str) -> str:
    return {
        "opentelemetry_id_generator": "id generator",
        "opentelemetry_context": "context",
        "opentelemetry_resource_detector": "resource detector",
    }[group]
