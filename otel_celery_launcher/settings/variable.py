# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A row of the table of settings, and what a bad value is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_celery_launcher.settings.checks import Check

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable(Generic[Value]):
    """One row: everything there is to say about a variable, once.

    Attributes:
        name: Name of the variable.
        kind: The form of a value, for the documentation.
        help: What it does, in one or two sentences.
        check: Returns the value to use, or raises ``BadValueError``.
        parse: Converts the text to the value that we use; gets "" if it is unset.
        default: The text that applies while it is unset; "" for none.
        default_text: Description of the default, if it is not a plain value.
        fallback: Replaces a bad value; None unsets it, so that the default applies.
        fallback_text: Description of the fallback, if it is not a plain value.
        unit: The unit of a number.
        secret: Whether the value is never shown.
    """

    name: str
    kind: str
    help: str
    check: Check
    parse: Callable[[str], Value]
    default: str = ""
    default_text: str = ""
    fallback: str | None = None
    fallback_text: str = ""
    unit: str = ""
    secret: bool = False

    def read(self, environ: Mapping[str, str]) -> Value:
        """Return the value of an environment that ``correct_environment`` left."""
        return self.parse(environ.get(self.name) or self.default)

    @property
    def documented_default(self) -> str:
        """What holds while it is unset, for a reader."""
        return self.default_text or self.default or "unset"

    @property
    def documented_fallback(self) -> str:
        """What a bad value becomes, for a reader."""
        return self.fallback_text or self.fallback or self.documented_default


class BadValue(NamedTuple):
    """An invalid value.

    Attributes:
        name: Name of the variable.
        printed: The value, made safe to print.
        expected: Description of valid values.
        used: The value that is used instead.
    """

    name: str
    printed: str
    expected: str
    used: str

    def __str__(self) -> str:
        return f"{self.name} is {self.printed}: expected {self.expected}; using {self.used}"


class Note(NamedTuple):
    """A value that is good, and a likely mistake.

    Attributes:
        about: What it is about: ``service name``, ``exporter``, ``endpoint``, ``pool``.
        text: One line.
    """

    about: str
    text: str

    def __str__(self) -> str:
        return self.text
