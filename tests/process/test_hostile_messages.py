"""Messages that nobody meant: what plain Celery survives, survives under the launcher.

Anybody who reaches the broker can write them: headers, properties and bodies of any type,
of both protocols. The same messages go to both; the logs are compared, line by line.
"""

from __future__ import annotations

import base64
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.process.test_same_as_celery import local_log
from tests.support.harness import CELERY, SCRIPT, happens

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.harness import Launcher, Process

Message = dict[str, Any]

# Plain Celery restarts its consumer for ever over some; a message takes 10 ms.
STALL_SECONDS = 5

# What Celery reads, and what we do; but for the id of a task, which ends plain Celery
# where it is no text, and restarts it for ever where it is missing.
HEADERS = [
    "args", "argsrepr", "baggage", "correlation_id", "delivery_info", "eta", "expires",
    "group", "headers", "hostname", "is_eager", "kwargs", "kwargsrepr", "lang",
    "origin", "otel_celery_published", "otel_celery_received", "otel_celery_trace",
    "otel_context", "parent_id", "periodic_task_name", "properties", "reply_to",
    "retries", "root_id", "shadow", "stamped_headers", "stamps", "task", "timelimit",
    "traceparent", "tracestate",
]  # fmt: skip

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(
            [
                "", "new", "1e999", "-1", "nan", "\x1b[2J", "é" * 300, "x" * 3000,
                f"00-{1:032x}-{2:016x}-01", f"00-{0:032x}-{0:016x}-ff", "a=b,c=d;e",
                "2026-13-45T99:99", "9999-12-31T23:59:59.999999+14:00",
            ]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=10), inner, max_size=3),
    ),
    max_leaves=5,
)  # fmt: skip

# Of a message that runs; the others replace, add and remove.
GOOD: Message = {
    "lang": "py",
    "task": "shop.noop",
    "id": "good",
    "argsrepr": "()",
    "retries": 0,
}

BARE: Message = {"id": "bare"}

bodies = st.one_of(
    st.just([[], {}, {}]),
    st.just(
        [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    ),
    st.fixed_dictionaries(
        {
            "task": st.just("shop.noop"),
            "id": st.just("one"),
            "args": values,
            "kwargs": values,
        }
    ),
    values,
).map(lambda body: json.dumps(body).encode()) | st.sampled_from(
    [b"", b"{not json", b"\xff\xfe", b"null", b"[]", b"[[]]", b"5"]
)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Return a message as kombu's Redis transport keeps it."""
    changes = draw(st.dictionaries(st.sampled_from(HEADERS), values, max_size=5))
    base = draw(st.sampled_from([GOOD, GOOD, BARE]))
    missing = draw(st.sets(st.sampled_from(sorted({*GOOD} - {"id"})), max_size=1))
    headers: Any = {k: v for k, v in {**base, **changes}.items() if k not in missing}
    return {
        "body": base64.b64encode(draw(bodies)).decode(),
        "content-encoding": "utf-8",
        "content-type": draw(
            st.sampled_from(
                ["application/json"] * 4 + ["application/x-python-serialize", "no/such"]
            )
        ),
        "headers": headers,
        "properties": {
            **draw(
                st.dictionaries(
                    st.sampled_from(["reply_to", "correlation_id", "priority", "x"]),
                    values,
                    max_size=2,
                )
            ),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "body_encoding": "base64",
        },
    }


def start(launcher: Launcher, program: Path, pool: str) -> Process:
    # Without a backend: what it refuses to store would be another test. And without a
    # bound on what is reserved: Celery keeps what it neither runs nor refuses.
    return launcher.worker(
        "-P",
        pool,
        "-c1",
        "--prefetch-multiplier",
        "0",
        program=program,
        SHOP_BACKEND="disabled://",
    )


def deliver(
    launcher: Launcher,
    broker: str,
    program: Path,
    pool: str,
    hostile: Sequence[Message],
) -> tuple[set[int], list[dict[str, list[str]]]]:
    """Return which messages end or stall a worker, and what the workers have logged.

    After each comes one that runs: then the worker has seen the one before.
    """
    client = redis.Redis.from_url(broker)
    deadly: set[int] = set()
    workers = [start(launcher, program, pool)]
    for number, message in enumerate(hostile):
        probe = f"probe {number}"
        for each in (message, a_good_message(probe)):
            each["properties"]["delivery_tag"] = str(uuid.uuid4())
            client.lpush("celery", json.dumps(each))

        def is_over(text: str = f"[{probe}] succeeded") -> bool:
            return workers[-1].popen.poll() is not None or text in workers[-1].output

        if not happens(is_over, STALL_SECONDS):
            workers[-1].popen.kill()
            workers[-1].wait()
        if workers[-1].popen.poll() is not None:
            deadly.add(number)
            client.flushdb()
            workers.append(start(launcher, program, pool))
    workers[-1].stop()
    return deadly, [local_log(worker.output) for worker in workers]


def a_good_message(task_id: str) -> Message:
    """Return a message that runs."""
    return {
        "body": base64.b64encode(b"[[], {}, {}]").decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {**GOOD, "id": task_id},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "body_encoding": "base64",
        },
    }


def some_messages(count: int) -> list[Message]:
    """Return messages of all kinds, the same each time."""
    found: list[Message] = []

    @settings(max_examples=count, derandomize=True, database=None)
    @given(messages())
    def collect(message: Message) -> None:
        found.append(message)

    collect()
    return found


@pytest.mark.timeout(400)  # the older Celery, the more messages end it
@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_message_ends_no_worker_that_plain_celery_keeps(
    launcher: Launcher, broker: str, pool: str
) -> None:
    hostile = some_messages(80)
    plain = deliver(launcher, broker, CELERY, pool, hostile)
    ours = deliver(launcher, broker, SCRIPT, pool, hostile)
    assert ours[0] <= plain[0], [hostile[number] for number in ours[0] - plain[0]]
    assert ours[1] == plain[1]
