"""Real applications under otel-celery: `make test-applications`; long, outside of CI."""
