"""Scripts: servers and environments for the tests, generators of pages."""

from __future__ import annotations
