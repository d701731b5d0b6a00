"""What the tests share: workers, brokers, receivers, values."""

from __future__ import annotations
