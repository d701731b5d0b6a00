# syntax=docker/dockerfile:1
# An image with the launcher, for applications to start FROM:
#   FROM otel-celery
#   COPY --chown=app . /app
#   CMD ["-A", "proj", "worker"]

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY otel_celery_launcher ./otel_celery_launcher
RUN /opt/venv/bin/pip install --no-cache-dir ".[redis,http]"

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 app
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
USER app
# Exec form: Celery runs in this very process, as PID 1, and gets the signals.
ENTRYPOINT ["otel-celery"]
CMD ["--help"]
