"""For each variable that is checked a bad value, and what is used instead."""

from __future__ import annotations

_OTLP: dict[str, tuple[str, str | None]] = {
    "PROTOCOL": ("grcp", "grpc"),
    "ENDPOINT": ("ftp://collector", None),
    "HEADERS": ("no pair", None),
    "TIMEOUT": ("ten", None),
    "COMPRESSION": ("zip", None),
    "INSECURE": ("maybe", "false"),
    "CERTIFICATE": ("/no/such/file.pem", None),
    "CLIENT_KEY": ("/no/such/file.pem", None),
    "CLIENT_CERTIFICATE": ("/no/such/file.pem", None),
}

BAD_VALUES: dict[str, tuple[str, str | None]] = {
    "OTEL_CELERY_SERVICE_NAME": ("{nme}-{role}", None),
    "OTEL_CELERY_EXPORT": ("sometimes", "auto"),
    "OTEL_CELERY_SHUTDOWN_SECONDS": ("ten", None),
    "OTEL_CELERY_STRICT": ("perhaps", "false"),
    "OTEL_SDK_DISABLED": ("perhaps", "true"),
    "OTEL_RESOURCE_ATTRIBUTES": ("a=b,broken", "a=b"),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": ("otel,proces", "otel"),
    "OTEL_PROPAGATORS": ("bagage", "tracecontext"),
    "OTEL_TRACES_SAMPLER": ("always", "parentbased_always_off"),
    "OTEL_TRACES_SAMPLER_ARG": ("lots", "0"),
    "OTEL_PYTHON_ID_GENERATOR": ("dice", "random"),
    "OTEL_PYTHON_CONTEXT": ("mine", "contextvars_context"),
    "OTEL_TRACES_EXPORTER": ("oltp", "none"),
    **{f"OTEL_EXPORTER_OTLP_{name}": bad for name, bad in _OTLP.items()},
    **{f"OTEL_EXPORTER_OTLP_TRACES_{name}": bad for name, bad in _OTLP.items()},
    "OTEL_BSP_SCHEDULE_DELAY": ("soon", None),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("-1", None),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("0", None),
    "OTEL_BSP_EXPORT_TIMEOUT": ("x", None),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": ("many", None),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("-5", None),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ("many", None),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("long", None),
    "OTEL_PYTHON_LOG_CORRELATION": ("perhaps", "false"),
    "OTEL_LOG_LEVEL": ("loud", "info"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": ("many", None),
    "OTEL_SPAN_LINK_COUNT_LIMIT": ("many", None),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": ("many", None),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": ("many", None),
}
