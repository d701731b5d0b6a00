"""Collectors with the files of deploy/, and other programs, on free ports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from tests.support.harness import wait_until
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
START_SECONDS = 20
NOWHERE = "http://127.0.0.1:9"  # for a destination that a test does not look at

# How long a test's sampler waits for the rest of a trace, for the 30 s of the file.
DECISION_SECONDS = 6


def free_ports(*more: str) -> dict[str, int]:
    """Return a port for each thing that a collector listens for, by its name."""
    names = ("grpc", "http", "health", "metrics", *more)
    return {each: free_port() for each in names}


def answer(url: str) -> str | None:
    """Return what a GET answers; None while nothing does."""
    try:
        with urllib.request.urlopen(url, timeout=10) as found:
            return str(found.read().decode())
    except (urllib.error.URLError, OSError):
        return None


@dataclass
class Engine:
    """A program that runs, its output in a file."""

    popen: subprocess.Popen[bytes]
    log: Path
    ports: dict[str, int]

    @property
    def endpoint(self) -> str:
        """The value for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://127.0.0.1:{self.ports['grpc']}"

    @property
    def address(self) -> str:
        """Its gRPC endpoint as a Collector's exporter names it."""
        return f"127.0.0.1:{self.ports['grpc']}"

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a Collector's own metric; 0 before its first value."""
        text = answer(f"http://127.0.0.1:{self.ports['metrics']}/metrics")
        assert text is not None, self.output
        found = 0.0
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(
                f'{key}="{each}"' in series for key, each in labels.items()
            ):
                found += float(value)
        return found

    def usage(self) -> tuple[float, int]:
        """Return the CPU seconds that it has used, and its resident bytes."""
        process = psutil.Process(self.popen.pid)
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; SIGKILL is a failure of the node."""
        self.popen.send_signal(number)
        self.popen.wait(60)


@dataclass
class Engines:
    """Starts programs in a folder; leaves none behind."""

    folder: Path
    _started: list[Engine] = field(default_factory=list)

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._started:
            if engine.popen.poll() is None:
                engine.popen.kill()
                engine.popen.wait()

    def run(
        self, words: Sequence[object], ready: str, ports: dict[str, int], **environ: str
    ) -> Engine:
        """Start a program and wait until an address answers 200."""
        log = self.folder / f"{len(self._started)}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [*map(str, words)],
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)} | environ,
                cwd=self.folder,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        engine = Engine(popen, log, ports)
        self._started.append(engine)

        def is_ready() -> bool:
            assert popen.poll() is None, engine.output
            return answer(ready) is not None

        wait_until(is_ready, START_SECONDS, f"{words[0]} answers at {ready}")
        return engine

    def collector(
        self,
        name: str,
        overlay: dict[str, Any] | None = None,
        ports: dict[str, int] | None = None,
        **environ: str,
    ) -> Engine:
        """Run a file of deploy/collector, changed in its ports and as a test asks.

        Args:
            name: ``agent``, ``gateway`` or ``sampler``.
            overlay: What is merged over the file, as a second ``--config``.
            ports: Those of the one that this replaces.
            environ: Its variables; destinations that are not named lead nowhere.
        """
        ports = ports or free_ports()
        number = len(self._started)
        changed = self.folder / f"{number}.yaml"
        changed.write_text(yaml.safe_dump(merged(own_ports(ports), overlay or {})))
        defaults = dict.fromkeys(
            (
                "PROMETHEUS_ENDPOINT",
                "LOKI_ENDPOINT",
                "TEMPO_ENDPOINT",
                "JAEGER_ENDPOINT",
            ),
            NOWHERE,
        ) | {"OTEL_QUEUE_DIRECTORY": str(self.folder / f"queue-{number}")}
        return self.run(
            [os.environ["TEST_COLLECTOR"],
             f"--config={DEPLOY / 'collector' / name}.yaml", f"--config={changed}"],
            f"http://127.0.0.1:{ports['health']}/",
            ports,
            **defaults | environ,
        )  # fmt: skip

    def samplers(self, *destinations: str, **environ: str) -> list[Engine]:
        """Run a sampler for each destination, each with a short window."""
        overlay = {
            "processors": {"tail_sampling": {"decision_wait": f"{DECISION_SECONDS}s"}}
        }
        return [
            self.collector("sampler", overlay, TEMPO_ENDPOINT=each, **environ)
            for each in destinations
        ]

    def gateway(
        self,
        addresses: Sequence[str],
        overlay: dict[str, Any] | None = None,
        ports: dict[str, int] | None = None,
        **environ: str,
    ) -> Engine:
        """Run the gateway over samplers at some addresses: DNS knows no ports."""
        resolver = {"dns": None, "static": {"hostnames": list(addresses)}}
        changed = {"exporters": {"load_balancing": {"resolver": resolver}}}
        return self.collector(
            "gateway", merged(changed, overlay or {}), ports, **environ
        )


def own_ports(ports: dict[str, int]) -> dict[str, Any]:
    """Return what gives a collector ports of its own, on loopback."""
    return {
        "receivers": {
            "otlp": {
                "protocols": {
                    each: {"endpoint": f"127.0.0.1:{ports[each]}"}
                    for each in ("grpc", "http")
                }
            }
        },
        "extensions": {"health_check": {"endpoint": f"127.0.0.1:{ports['health']}"}},
        "service": {
            "telemetry": {
                "metrics": {
                    "readers": [
                        {
                            "pull": {
                                "exporter": {
                                    "prometheus": {
                                        "host": "127.0.0.1",
                                        "port": ports["metrics"],
                                    }
                                }
                            }
                        }
                    ]
                }
            }
        },
    }


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return two configurations as the Collector merges them: maps, not lists."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        found[key] = merged(old, value) if both else value
    return found


def errors_in(output: str) -> list[str]:
    """Return the lines of a collector's log that are errors."""
    return re.findall(r"^\S+\terror\t.*$", output, re.MULTILINE)


def jaeger(engines: Engines) -> Engine:
    """Run Jaeger with its own configuration, traces in memory."""
    ports = free_ports("query", "query-grpc")
    config = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {
                "traces": {
                    "receivers": ["otlp"],
                    "exporters": ["jaeger_storage_exporter"],
                }
            },
        },
        "extensions": {
            "jaeger_storage": {
                "backends": {"memory": {"memory": {"max_traces": 100_000}}}
            },
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": f"127.0.0.1:{ports['query']}"},
                "grpc": {"endpoint": f"127.0.0.1:{ports['query-grpc']}"},
            },
        },
        "receivers": {"otlp": {"protocols": {"grpc": {}, "http": {}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }
    file = engines.folder / "jaeger.yaml"
    changed = merged(config, own_ports(ports))
    del changed["extensions"]["health_check"]
    file.write_text(yaml.safe_dump(changed))
    return engines.run(
        [os.environ["TEST_JAEGER"], f"--config={file}"],
        f"http://127.0.0.1:{ports['query']}/api/services",
        ports,
    )


def prometheus(engines: Engines, *collectors: Engine, port: int) -> Engine:
    """Run Prometheus as compose.yaml does; it scrapes each second."""
    ports = {"http": port}
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    words = [
        word
        for word in compose["services"]["prometheus"]["command"]
        if not word.startswith("--config.file=")
    ]
    config = yaml.safe_load((DEPLOY / "compose/prometheus.yaml").read_text())
    config["global"]["scrape_interval"] = "1s"
    config["global"]["evaluation_interval"] = "1s"
    config["rule_files"] = [str(DEPLOY / "prometheus/rules.yaml")]
    (jobs,) = (
        job for job in config["scrape_configs"] if job["job_name"] == "collectors"
    )
    targets = [f"127.0.0.1:{each.ports['metrics']}" for each in collectors]
    config["scrape_configs"] = [jobs | {"static_configs": [{"targets": targets}]}]
    file = engines.folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    return engines.run(
        [os.environ["TEST_PROMETHEUS"], *words, f"--config.file={file}",
         f"--storage.tsdb.path={engines.folder / 'prometheus'}",
         f"--web.listen-address=127.0.0.1:{ports['http']}"],
        f"http://127.0.0.1:{ports['http']}/-/ready",
        ports,
    )  # fmt: skip
