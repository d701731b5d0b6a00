# syntax=docker/dockerfile:1
# An image with the launcher, for applications to start FROM: deploy/docker/Dockerfile.app
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY tools/package_metadata.py ./tools/
COPY otel_celery_launcher ./otel_celery_launcher
# The wheel is built once; what is installed is what was tested, and no compiler stays.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir "$(echo /wheels/*.whl)[redis,http]"

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 app \
    && install -d -o app -g app /app /data
COPY --from=build --chown=app:app /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OTEL_CELERY_HEALTH_FILE=/tmp/otel-celery-health
WORKDIR /app
USER 10001
# Workers touch the file every 2 s; beat, flower and web processes override this.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["otel-celery", "healthcheck"]
# Exec form: Celery runs in this very process, as PID 1, and gets the signals.
CMD ["otel-celery", "--help"]
