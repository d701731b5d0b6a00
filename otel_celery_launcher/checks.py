# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of single values: each returns the value to use or raises ``BadValueError``.

Pure functions, run in the launcher before the SDK is imported. Names of components are
looked up among the installed entry points only when they are not the built-in ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from string import Formatter
from typing import Any

PATH_SEPARATOR = os.pathsep

# A value as written in; the value the SDK shall see out, None for "unset it".
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


class BadValueError(Exception):
    """A value that does not fit: what was expected, and what is used instead."""

    def __init__(self, expected: str, instead: str | None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.instead = instead


def is_installed(group: str, name: str) -> bool:
    """Return whether a component of that entry point group is installed."""
    return name in BUILTIN.get(group, ()) or bool(entry_points(group=group, name=name))


def load_component(group: str, name: str) -> Any:
    """Import and return an installed component.

    Raises:
        Exception: Whatever a stranger's module raises.
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
    raise BadValueError("true or false", "false")


def sdk_disabled(value: str) -> str:
    """Accept true or false; anything else disables, the more private side."""
    if value.lower() in ("true", "false"):
        return value.lower()
    raise BadValueError("true or false", "true")


def one_of(*choices: str) -> Check:
    """Return a check for one of some words; the first is what is used instead."""

    def check(value: str) -> str:
        if value.lower() in choices:
            return value.lower()
        instead = "false" if "false" in choices else choices[0]
        raise BadValueError(" or ".join(choices), instead)

    return check


def number(lowest: float, highest: float, *, over: bool = False) -> Check:
    """Return a check for a number within bounds; ``over`` leaves the lowest out."""

    def check(value: str) -> str:
        try:
            found = float(value)
        except ValueError:
            found = -1.0
        is_high_enough = found > lowest if over else found >= lowest
        if is_high_enough and found <= highest:
            return value
        start = f"over {lowest:g} and up" if over else f"from {lowest:g}"
        raise BadValueError(f"a number {start} to {highest:g}", None)

    return check


def whole_number(lowest: int) -> Check:
    """Return a check for a whole number of at least ``lowest``."""

    def check(value: str) -> str:
        try:
            if int(value) >= lowest:
                return value
        except ValueError:
            pass
        raise BadValueError(f"a whole number of {lowest} or more", None)

    return check


def installed_one(group: str, default: str) -> Check:
    """Return a check for the name of one installed component."""

    def check(value: str) -> str:
        if is_installed(group, value):
            return value
        raise BadValueError(f"an installed {_kind(group)}", default)

    return check


def installed(group: str, also: tuple[str, ...] = ()) -> Check:
    """Return a check for names of installed components; the known ones are kept."""

    def check(value: str) -> str:
        known, unknown = _sort_names(group, value, also)
        if unknown:
            raise BadValueError(
                f"installed {_kind(group)}s; {_unknown(unknown)}",
                ",".join(known) or None,
            )
        return value

    return check


def propagators(value: str) -> str | None:
    """Accept installed propagators; the SDK raises at import for any other."""
    known, unknown = _sort_names("opentelemetry_propagator", value, ("none",))
    if unknown:
        raise BadValueError(
            f"installed propagators; {_unknown(unknown)}",
            ",".join(known) or "tracecontext",
        )
    return value


def sampler(value: str) -> str:
    """Accept an installed sampler; the SDK's own in any case, as the SDK does."""
    for name in (value, value.lower()):
        if is_installed("opentelemetry_traces_sampler", name):
            return name
    raise BadValueError("an installed sampler", "parentbased_always_off")


def sampler_argument(value: str, sampler_name: str) -> str | None:
    """Accept a ratio for the samplers that take one, else anything."""
    if not sampler_name.endswith("traceidratio"):
        return value
    try:
        if 0 <= float(value) <= 1:
            return value
    except ValueError:
        pass
    raise BadValueError("a ratio from 0 to 1", "0")


def exporters(value: str) -> str:
    """Accept otlp, console, none, or the names of installed exporters."""
    group = "opentelemetry_traces_exporter"
    known, unknown = _sort_names(group, value, ("otlp", "none"))
    if unknown:
        raise BadValueError(
            f"otlp, console, none or installed exporters; {_unknown(unknown)}",
            ",".join(known) or "none",
        )
    return value


def resource_attributes(value: str) -> str | None:
    """Accept key=value pairs."""
    items = [item for item in value.split(",") if item.strip()]
    good = [item for item in items if item.partition("=")[0].strip() and "=" in item]
    if good != items:
        raise BadValueError(
            "key=value pairs, separated by commas", ",".join(good) or None
        )
    return value


def service_name_template(value: str) -> str:
    """Accept text with the fields {name} and {role}."""
    try:
        fields = {field for _, field, _, _ in Formatter().parse(value) if field}
        value.format(name="", role="")
    except (ValueError, IndexError, KeyError):
        fields = {"?"}
    if fields <= {"name", "role"}:
        return value
    raise BadValueError("text with {name} and {role}, such as {name}-{role}", None)


def _sort_names(
    group: str, value: str, also: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    names = split_names(value)
    known = [name for name in names if name in also or is_installed(group, name)]
    return known, [name for name in names if name not in known]


def _unknown(names: list[str]) -> str:
    return f"{', '.join(map(repr, names))} is not installed or misspelt"


def _kind(group: str) -> str:
    return {
        "opentelemetry_id_generator": "id generator",
        "opentelemetry_context": "context",
        "opentelemetry_resource_detector": "resource detector",
    }[group]
