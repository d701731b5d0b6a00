"""One command shows all workers of some brokers, whoever launched them."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import redis

from tests.support.harness import (
    CELERY,
    SCRIPT,
    Launcher,
    Producer,
    run_some,
    wait_until,
)
from tests.support.servers import free_port

if TYPE_CHECKING:
    from otel_celery_launcher.receiver.memory import Receiver


def look(launcher: Launcher, *brokers: str) -> tuple[int, dict[str, Any]]:
    words = [word for broker in brokers for word in ("--broker", broker)]
    done = launcher.run("fleet", "--json", "--timeout", "3", *words)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_mixed_fleet_on_two_brokers(
    launcher: Launcher, collector: Receiver, broker: str, redis_server: str
) -> None:
    """Ours, one whose collector is away, a plain one, and a broker that is not there."""
    other = f"{redis_server}/4000"
    away = f"redis://user:hidden@127.0.0.1:{free_port()}/0"
    worker = launcher.worker("-P", "solo", "-n", "ours@here")
    run_some(Producer(broker), 3)
    assert collector.wait_for(lambda spans: len(spans) >= 3, 10)
    status, seen = look(launcher, broker)
    (ours,) = seen["workers"]
    assert (status, seen["is_well"]) == (0, True)
    assert (ours["node"], ours["state"], ours["lost"]) == ("ours@here", "delivers", 0)
    assert (ours["role"], ours["service"]) == ("worker", "shop-worker")
    assert ours["exported"] >= 3
    launcher.worker(
        "-P", "solo", "-n", "plain@here", program=CELERY, SHOP_BROKER=other, SHOP_BACKEND=other,
    )  # fmt: skip
    launcher.worker(
        "-P", "solo", "-n", "broken@here", SHOP_BROKER=other, SHOP_BACKEND=other,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
    )  # fmt: skip
    producer = Producer(other)
    for _ in range(2):
        run_some(producer, 10)
    wait_until(
        lambda: "fails" in str(look(launcher, other)[1]), 20, "the broken one says so"
    )
    status, seen = look(launcher, broker, other, away)
    states = {each["node"]: each["state"] for each in seen["workers"]}
    assert status == 1
    assert states == {
        "ours@here": "delivers", "plain@here": "plain", "broken@here": "fails",
    }  # fmt: skip
    assert seen["workers"][0]["node"] == "plain@here"  # the oldest first
    assert list(seen["unreached"]) == [away.replace("hidden", "**")]
    table = launcher.run(
        "fleet", "--timeout", "5", "--broker", broker, "--broker", other
    ).stdout
    assert "hidden" not in table
    head, first, *_ = table.splitlines()
    assert head.split()[:3] == ["worker", "state", "release"]
    assert first.split()[:2] == ["plain@here", "plain"]
    with redis.Redis.from_url(other) as client:  # no queue for answers is left
        assert client.smembers("_kombu.binding.reply.celery.pidbox") == set()
    worker.stop()


def test_it_can_be_watched_and_asks_a_plain_worker_once(
    launcher: Launcher, broker: str
) -> None:
    """Plain Celery writes a line for each question that it does not know."""
    worker = launcher.worker("-P", "solo", program=CELERY)
    log = launcher.folder / "watched"
    with log.open("wb") as out:
        watched = subprocess.Popen(
            [SCRIPT, "fleet", "--broker", broker, "--json", "--watch", "1"],
            env=launcher.environ, cwd=launcher.folder, stdout=out,
        )  # fmt: skip
        try:
            wait_until(lambda: log.read_text().count("\n") >= 3, 30, "three looks")
            watched.send_signal(signal.SIGINT)
            assert watched.wait(20) == 1
        finally:
            watched.kill()
    for line in log.read_text().splitlines():
        (seen,) = json.loads(line)["workers"]
        assert seen["state"] == "plain"
    assert worker.output.count("otel_status") <= 2  # one question


def test_without_a_broker_it_says_what_to_type(launcher: Launcher) -> None:
    done = launcher.run("fleet")
    assert done.returncode == 78
    assert "expected --broker, or an application with -A" in done.stderr
    assert launcher.run("-A", "shop", "fleet").returncode == 1  # no worker


def test_a_broker_that_cannot_be_asked_hides_no_other(
    launcher: Launcher, broker: str
) -> None:
    launcher.worker("-P", "solo", "-n", "plain@here", program=CELERY)
    bad = ["nosuch://x", "redis://127.0.0.1:port/0", "redis://[::1/0"]
    status, seen = look(launcher, *bad, broker)
    assert status == 1
    assert [each["node"] for each in seen["workers"]] == ["plain@here"]
    assert len(seen["unreached"]) == len(bad)
