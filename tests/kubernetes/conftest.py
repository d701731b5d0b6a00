"""Collected by ``make test-kubernetes`` alone, which builds what these tests run."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "TEST_KUBERNETES" in os.environ else ["test_*"]
