"""Brokers and a database of our own, on free ports, and an environment for a command."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.harness import Producer, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Playwright

APPS = Path(__file__).parent.parent / "process" / "apps"

# An application's environment without OpenTelemetry; made by tools/make_plain.
IMAGE = Path(sys.prefix + "-plain")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def server_command(name: str, *places: str) -> str:
    """Return the path of a server; its absence is a failure, not a skip."""
    for place in (shutil.which(name), *places):
        if place and Path(place).is_file():
            return place
    pytest.fail(f"{name} is not installed: run `make servers`, or apt install {name}")


@contextlib.contextmanager
def run_redis(folder: Path, port: int = 0) -> Iterator[str]:
    """Run a Redis server of our own; yields its URL without a database number."""
    port = port or free_port()
    command = [server_command("redis-server"), "--port", str(port), "--save", ""]
    with subprocess.Popen(
        [*command, "--bind", "127.0.0.1", "--databases", "4096", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    ) as server:
        try:
            wait_until(lambda: is_open(port), 10, "redis-server listens")
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()


@contextlib.contextmanager
def run_postgres() -> Iterator[int]:
    """Run a PostgreSQL server, which refuses to be root; yields its port.

    Its superuser is ``shop``, without a password, its database ``postgres``.
    """
    port = free_port()
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path())
    initdb = server_command("initdb", str(programs / "initdb"))
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        data = str(folder / "data")
        subprocess.run(
            [initdb, "-D", data, "-A", "trust", "-U", "shop", "--no-sync"],
            user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with subprocess.Popen(
            [Path(initdb).with_name("postgres"), "-D", data, "-p", str(port),
             "-c", "unix_socket_directories="],
            user=user, cwd=folder, stderr=subprocess.DEVNULL,
        ) as server:  # fmt: skip
            wait_until(lambda: is_open(port), 30, "PostgreSQL listens")
            yield port
            server.terminate()


@contextlib.contextmanager
def run_rabbitmq(folder: Path) -> Iterator[str]:
    """Run a RabbitMQ node of our own, with its own epmd; yields the broker's URL."""
    port, dist, epmd = free_port(), free_port(), free_port()
    config = folder / "rabbitmq.conf"
    config.write_text(f"listeners.tcp.default = 127.0.0.1:{port}\n")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "RABBITMQ_NODENAME": f"otel{port}@localhost",
        "RABBITMQ_CONFIG_FILE": str(config.with_suffix("")),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_DIST_PORT": str(dist),
        "ERL_EPMD_PORT": str(epmd),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
    }
    program = server_command("", "/usr/lib/rabbitmq/bin/rabbitmq-server")
    with (
        (folder / "out").open("w") as out,
        subprocess.Popen([program], env=environ, stdout=out, stderr=out) as server,
    ):
        try:
            wait_until(lambda: is_open(port), 60, "rabbitmq-server listens")
            yield f"amqp://guest:guest@127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(
                ["epmd", "-port", str(epmd), "-kill"],
                stdout=subprocess.DEVNULL,
                check=False,
            )


def start_browser(playwright: Playwright) -> Browser:
    """Start Chromium without a window."""
    return playwright.chromium.launch(
        executable_path=server_command("chromium"),
        args=["--no-sandbox"] if os.geteuid() == 0 else [],
    )


def base_environ(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(APPS),
        "PYTHONWARNINGS": "ignore",
        "SHOP_SCHEDULE": str(tmp_path / "beat-schedule"),
    }


def producer_on(
    transport: str,
    request: pytest.FixtureRequest,
    child_environ: dict[str, str],
    broker: str,
) -> Producer:
    """Return a producer on ``redis`` or ``rabbitmq``; results come through Redis."""
    if transport == "redis":
        return Producer(broker)
    url = f"{request.getfixturevalue('rabbitmq_server')}//"
    child_environ["SHOP_BROKER"] = url
    found = Producer(url)
    found.app.conf.result_backend = broker
    found.app.control.purge()
    return found
