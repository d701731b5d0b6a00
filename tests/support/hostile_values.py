"""Values that a variable may have and nobody expects: mistakes, other notations, attacks."""

from __future__ import annotations

from otel_celery_launcher.settings.standard_variables import VARIABLES

# What is put where the path of a file is meant; its middle must be shown nowhere.
SECRET = "hunter2SECRET"
PRIVATE_KEY = f"-----BEGIN PRIVATE KEY-----\n{SECRET * 20}\n-----END PRIVATE KEY-----\n"

# For any variable.
COMMON = (
    PRIVATE_KEY, "{role.x}", "9" * 5000, "\udcff", "a\nb\n", "x" * 5000, ",", "%00",
    "1e400", "[", "-1", "9" * 30, "nan", ",,=,", "²", "\u2028x", "=%00=", "0", "*",
    "1e-320",
)  # fmt: skip

ENDPOINTS = (
    "ipv4:127.0.0.1:1,127.0.0.1:2", "ipv6:[::1]:1", "ipv6:[::1", "unix:otel.sock",
    "unix:///tmp/no/such.sock", "unix-abstract:otel", "vsock:1:1", "dns:a:1,b:2",
    "dns:///127.0.0.1:1", "xds:///collector", "unix:", "unix://[x", "http://[",
    "http://[::1]:1", "http://127.0.0.1:99999", "http://", "127.0.0.1:1",
    "unix://\u212a@", "http://a\tb:1", "https://127.0.0.1:1",
)  # fmt: skip

# For one variable, by how its name ends.
OF = {
    "_ENDPOINT": ENDPOINTS,
    "OTEL_CELERY_SERVICE_NAME": (
        "{role.x}", "{name[0]}", "{name:>99999999999}", "{", "{}", "{name!x}",
        "{name:{role}}", "{role}\udcff", "{nme}", "{name[a]}",
    ),
    "OTEL_RESOURCE_ATTRIBUTES": (
        "service.name=a%00b", "service.name=%ff", "=", "a=b,", "\udcff=\udcff",
    ),
    "_HEADERS": ("a=b%0d%0ac", "a-bin=b", "=", "x=\udcff", f"x={SECRET},broken"),
    "OTEL_PROPAGATORS": ("tracecontext,,baggage", "none,none", "\udcff", ","),
    "OTEL_TRACES_SAMPLER": ("traceidratio", "ALWAYS_ON", "[", "\udcff"),
    "OTEL_TRACES_EXPORTER": ("otlp,,otlp", "otlp", "otlp,nobody's"),
    "_PROTOCOL": ("grpc", "grpc", "http/protobuf", "\udcff"),
    "OTEL_CELERY_EXPORT": ("process", "inline", "auto", "\udcff"),
    "OTEL_SDK_DISABLED": ("1", "yes", "on", "TRUEISH", "\udcff"),
    # Its file is as missing as any other's, which ends a start with status 78.
    "OTEL_CELERY_ENV_FILE": ("",),
    "OTEL_CELERY_STRICT": ("false", "2", "\udcff"),
}  # fmt: skip


def values_of(name: str) -> tuple[str, ...]:
    """Return the hostile values of a variable."""
    own = [values for end, values in OF.items() if name.endswith(end)]
    return own[0] if own else COMMON


def environ(number: int) -> dict[str, str]:
    """Return an environment in which each variable has its next hostile value."""
    found = {}
    for place, row in enumerate(VARIABLES):
        values = values_of(row.name)
        # One kind of value for all variables of a kind, and another for the next kind.
        shift = number if len(values) < len(COMMON) else number + place // 2
        found[row.name] = values[shift % len(values)]
    return found
