# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The packages of this environment: what we brought, and what does not fit together.

For ``doctor`` and ``bootstrap``, in processes of their own; reads metadata alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import Distribution

OWN_NAME = "otel-celery-launcher"
UPSTREAM_PREFIX = "opentelemetry-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A requirement that does not hold.

    Attributes:
        by: The package that requires it: name and release.
        wants: The requirement.
        found: The release that is installed; empty for none.
    """

    by: str
    wants: str
    found: str

    def __str__(self) -> str:
        state = f"{self.found} is installed" if self.found else "it is not installed"
        return f"{self.by} wants {self.wants}, and {state}"


class Packages:
    """All that is installed, by canonical name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Distribution] = {}
        for distribution in distributions():
            name = distribution.metadata["Name"]
            if name:  # of two on the path the first is imported
                self._by_name.setdefault(canonicalize_name(name), distribution)

    def version(self, name: str) -> str:
        """Return the release of a package, empty where it is not installed."""
        package = self._by_name.get(canonicalize_name(name))
        return package.version if package else ""

    def modules(self, name: str) -> frozenset[str]:
        """Return the top-level names that a package alone has: no namespaces."""
        package = self._by_name.get(canonicalize_name(name))
        if package is None:
            return frozenset()
        places = [path.parts for path in package.files or ()]
        return frozenset(
            parts[0].removesuffix(".py")
            for parts in places
            if parts[1:] == ("__init__.py",)
            or (len(parts) == 1 and parts[0].endswith(".py"))
        )

    def pins(self) -> list[str]:
        """Return ``name==release`` of each."""
        return sorted(
            f"{name}=={each.version}"
            for name, each in self._by_name.items()
            if each.version
        )

    def satisfies(self, requirement: Requirement) -> bool:
        """Return whether a requirement holds; pre-releases count as what they are."""
        version = self.version(requirement.name)
        return bool(version) and requirement.specifier.contains(
            version, prereleases=True
        )

    def mismatches(self) -> list[Mismatch]:
        """Return requirements that do not hold, of ours and of what we have brought.

        It also returns those of other packages on what we have brought, such as an
        application's pin that our installation has broken.
        """
        brought = self._brought()
        return [
            Mismatch(
                by=f"{name} {distribution.version}",
                wants=f"{requirement.name}{requirement.specifier}",
                found=self.version(requirement.name),
            )
            for name, distribution in sorted(self._by_name.items())
            for requirement in _requirements(distribution, frozenset())
            if name in brought or canonicalize_name(requirement.name) in brought
            if not self.satisfies(requirement)
        ]

    def _brought(self) -> set[str]:
        """Return our own package, OpenTelemetry's, and all that these require."""
        todo = deque(
            (name, OWN_EXTRAS if name == OWN_NAME else frozenset[str]())
            for name in self._by_name
            if name == OWN_NAME or name.startswith(UPSTREAM_PREFIX)
        )
        seen = set(todo)
        while todo:
            name, extras = todo.popleft()
            for requirement in _requirements(self._by_name[name], extras):
                required = canonicalize_name(requirement.name)
                package = (required, frozenset(requirement.extras))
                if required in self._by_name and package not in seen:
                    seen.add(package)
                    todo.append(package)
        return {name for name, _ in seen}


# Extras for users; those for development do not count.
OWN_EXTRAS = frozenset({"http", "redis", "gevent", "eventlet", "demo", "auto"})


def _requirements(
    distribution: Distribution, extras: frozenset[str]
) -> Iterator[Requirement]:
    """Yield the requirements of a package that count here, and those of some extras."""
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except (
            InvalidRequirement
        ):  # of an old package, which pip does not look at either
            continue
        marker = requirement.marker
        environments = [{"extra": each} for each in ("", *sorted(extras))]
        if marker is None or any(marker.evaluate(each) for each in environments):
            yield requirement
