"""One page, which publishes a task."""

from __future__ import annotations

from django.http import HttpResponse
from django.urls import path

from django_site.tasks import ask


def publish(request):
    return HttpResponse(ask.delay().id)


urlpatterns = [path("publish", publish)]
