# syntax=docker/dockerfile:1
# An application's image: what was there before, and otel-celery in its command.
#   docker build -f deploy/docker/Dockerfile.app --build-arg BASE=otel-celery examples/fastapi
ARG BASE=otel-celery
FROM ${BASE}
WORKDIR /app
COPY --chown=app:app requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
COPY --chown=app:app . .
# Before: CMD ["celery", "-A", "shop.tasks", "worker", "-l", "INFO"]
CMD ["otel-celery", "-A", "shop.tasks", "worker", "-l", "INFO"]
