"""A checker for collector configurations: names, keys and references.

The collector's own `validate` needs its image; this knows the components that are used
here, by their present names, and every key of theirs (the `config.schema.yaml` of
opentelemetry-collector and -contrib 0.159).
"""

from __future__ import annotations

import re
from typing import Any

# Names that still work and will not (opentelemetry-collector-contrib#45339).
OLD_NAMES = {
    "otlp": "otlp_grpc",  # the exporter
    "otlphttp": "otlp_http",
    "loadbalancing": "load_balancing",
    "spanmetrics": "span_metrics",
    "signaltometrics": "signal_to_metrics",
    "k8sattributes": "k8s_attributes",
    "resourcedetection": "resource_detection",
    "fluentforward": "fluent_forward",
    "filelog": "file_log",
    "prometheusremotewrite": "prometheus_remote_write",
    "logging": "debug",
}

LEAF = None
ANY: dict[str, Any] = {"*": LEAF}
TLS = dict.fromkeys(
    ("insecure", "insecure_skip_verify", "server_name_override", "ca_file", "cert_file",
     "key_file", "reload_interval", "min_version", "client_ca_file")
)  # fmt: skip
RETRY = dict.fromkeys(
    ("enabled", "initial_interval", "max_interval", "max_elapsed_time", "multiplier",
     "randomization_factor")
)  # fmt: skip
BATCH = dict.fromkeys(("flush_timeout", "min_size", "max_size", "sizer"))
QUEUE = {
    **dict.fromkeys(("enabled", "num_consumers", "queue_size", "sizer", "storage",
                     "block_on_overflow", "wait_for_result")),
    "batch": BATCH,
}  # fmt: skip
KEEPALIVE = {
    "server_parameters": dict.fromkeys(
        ("max_connection_age", "max_connection_age_grace", "max_connection_idle",
         "time", "timeout")
    ),
    "enforcement_policy": dict.fromkeys(("min_time", "permit_without_stream")),
}  # fmt: skip
OTLP_CLIENT = {
    **dict.fromkeys(
        ("endpoint", "timeout", "compression", "balancer_name", "authority")
    ),
    "headers": ANY,
    "tls": TLS,
    "retry_on_failure": RETRY,
    "sending_queue": QUEUE,
}
GRPC_SERVER = {
    **dict.fromkeys(("endpoint", "max_recv_msg_size_mib", "max_concurrent_streams",
                     "include_metadata")),
    "tls": TLS,
    "keepalive": KEEPALIVE,
}  # fmt: skip
POLICY = {
    **dict.fromkeys(("name", "type")),
    "status_code": {"status_codes": LEAF},
    "boolean_attribute": dict.fromkeys(("key", "value", "invert_match")),
    "string_attribute": dict.fromkeys(
        ("key", "values", "enabled_regex_matching", "cache_max_size")
    ),
    "latency": dict.fromkeys(("threshold_ms", "upper_threshold_ms")),
    "probabilistic": dict.fromkeys(("sampling_percentage", "hash_salt")),
}
METRIC_KEY = dict.fromkeys(("key", "default_value", "optional"))
METRIC = {
    **dict.fromkeys(("name", "description", "unit", "conditions")),
    "attributes": METRIC_KEY,
    "include_resource_attributes": METRIC_KEY,
    "histogram": dict.fromkeys(("buckets", "count", "value")),
    "sum": {"value": LEAF},
}
DIMENSION = dict.fromkeys(("name", "default"))

COMPONENTS: dict[str, dict[str, dict[str, Any]]] = {
    "receivers": {
        "otlp": {
            "protocols": {
                "grpc": GRPC_SERVER,
                "http": {"endpoint": LEAF, "tls": TLS, "include_metadata": LEAF},
            }
        },
    },
    "processors": {
        "memory_limiter": dict.fromkeys(
            ("check_interval", "limit_percentage", "spike_limit_percentage",
             "limit_mib", "spike_limit_mib")
        ),
        "tail_sampling": {
            **dict.fromkeys(("decision_wait", "num_traces", "expected_new_traces_per_sec",
                             "decision_wait_after_root_received")),
            "decision_cache": dict.fromkeys(
                ("sampled_cache_size", "non_sampled_cache_size")
            ),
            "policies": POLICY,
        },
        "k8s_attributes": {
            "auth_type": LEAF,
            "pod_association": {"sources": dict.fromkeys(("from", "name"))},
            "extract": {"metadata": LEAF},
        },
    },
    "exporters": {
        "otlp_grpc": OTLP_CLIENT,
        "otlp_http": OTLP_CLIENT,
        "load_balancing": {
            "routing_key": LEAF,
            "timeout": LEAF,
            "retry_on_failure": RETRY,
            "sending_queue": QUEUE,
            "protocol": {"otlp": OTLP_CLIENT},
            "resolver": {
                "dns": dict.fromkeys(("hostname", "port", "interval", "timeout")),
                "k8s": dict.fromkeys(("service", "ports", "timeout")),
                "static": {"hostnames": LEAF},
            },
        },
        "prometheus": dict.fromkeys(("endpoint", "metric_expiration", "namespace")),
    },
    "connectors": {
        "forward": {},
        "span_metrics": {
            "histogram": {"unit": LEAF, "explicit": {"buckets": LEAF}, "disable": LEAF},
            "dimensions": DIMENSION,
            **dict.fromkeys(("metrics_flush_interval", "aggregation_cardinality_limit",
                             "resource_metrics_key_attributes", "namespace")),
        },
        "signal_to_metrics": {"spans": METRIC, "logs": METRIC, "datapoints": METRIC},
    },
    "extensions": {
        "health_check": {"endpoint": LEAF, "path": LEAF},
        "file_storage": {
            **dict.fromkeys(("directory", "create_directory", "timeout", "fsync")),
            "compaction": ANY,
        },
    },
}  # fmt: skip
SERVICE = {
    "extensions": LEAF,
    "pipelines": {"*": dict.fromkeys(("receivers", "processors", "exporters"))},
    "telemetry": {
        "metrics": {
            "level": LEAF,
            "readers": {
                "pull": {"exporter": {"prometheus": {"host": LEAF, "port": LEAF}}}
            },
        },
        "logs": {"level": LEAF, "encoding": LEAF},
    },
}


def problems(config: dict[str, Any]) -> list[str]:
    """Return what is wrong with a configuration, one line each."""
    found = [
        f"{key} is no section" for key in config if key not in (*COMPONENTS, "service")
    ]
    for section, known in COMPONENTS.items():
        for name, settings in (config.get(section) or {}).items():
            kind = name.partition("/")[0]
            if kind not in known:
                hint = OLD_NAMES.get(kind)
                found.append(
                    f"{section}: {name} is unknown" + (f", now {hint}" if hint else "")
                )
            else:
                found += unknown_keys(settings, known[kind], f"{section}.{name}")
    found += unknown_keys(config.get("service"), SERVICE, "service")
    return found + _references(config)


def unknown_keys(value: Any, allowed: Any, where: str) -> list[str]:
    """Return the keys that are not allowed, one line each."""
    if allowed is LEAF or value is None:
        return []
    if isinstance(value, list):
        return [each for item in value for each in unknown_keys(item, allowed, where)]
    if not isinstance(value, dict):
        return [f"{where} is {value!r}: expected {sorted(allowed)}"]
    found = []
    for key, below in value.items():
        if key in allowed or "*" in allowed:
            found += unknown_keys(
                below, allowed.get(key, allowed.get("*")), f"{where}.{key}"
            )
        else:
            found.append(f"{where}.{key} is no setting")
    return found


def _references(config: dict[str, Any]) -> list[str]:
    """What is used is there, what is there is used, and each connector joins two."""
    service = config.get("service") or {}
    pipelines: dict[str, dict[str, list[str]]] = service.get("pipelines") or {}
    connectors = set(config.get("connectors") or {})
    found: list[str] = []
    used = set(service.get("extensions") or ())
    there = {name for section in COMPONENTS for name in config.get(section) or {}}
    for pipeline, parts in pipelines.items():
        if pipeline.partition("/")[0] not in ("traces", "metrics", "logs"):
            found.append(f"{pipeline} is no pipeline")
        for part, names in parts.items():
            section = set(config.get(part) or {})
            for name in names or ():
                used.add(name)
                if name not in section | (
                    connectors if part != "processors" else set()
                ):
                    found.append(f"{pipeline}: {name} is not in {part}")
        processors = parts.get("processors") or []
        if "memory_limiter" in processors and processors[0] != "memory_limiter":
            found.append(f"{pipeline}: memory_limiter is not the first")
    for name in connectors:
        ends = [
            any(name in (parts.get(part) or ()) for parts in pipelines.values())
            for part in ("receivers", "exporters")
        ]
        if ends != [True, True]:
            found.append(f"{name} does not join two pipelines")
    storages = set(re.findall(r"'storage': '([^']+)'", repr(config)))
    found += [f"{name} is no extension in use" for name in storages if name not in used]
    unused = there - used
    return found + [f"{name} is not used" for name in sorted(unused)]
