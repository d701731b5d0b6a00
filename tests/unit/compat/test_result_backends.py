"""Result backends: private names that we lean on."""

from __future__ import annotations

import pickle
from typing import Any
from unittest.mock import patch

import pytest
from celery import Celery
from celery.backends.base import Backend
from celery.backends.cache import CacheBackend

from otel_celery_launcher.compat import (
    result_backends,
)


def test_each_call_of_a_backend_is_one_that_there_is() -> None:
    backend = Celery(set_as_current=False, backend="redis://").backend
    missing = [
        name for name in result_backends.BACKEND_CALLS if not hasattr(backend, name)
    ]
    assert missing == []


class Odd(CacheBackend):  # type: ignore[misc]
    """What plain Celery takes: a call that is a property."""

    @property
    def forget(self) -> Any:
        return lambda *_: None


def test_classes_of_backends_are_changed_once_and_stay_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Celery, "_get_backend", Celery._get_backend)
    for class_ in (Backend, CacheBackend):
        for name in result_backends.ASKING_CALLS:
            if name in class_.__dict__:
                monkeypatch.setattr(class_, name, class_.__dict__[name])
    calls: list[str] = []

    def quiet(call: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            calls.append(call.__name__)
            return call(*arguments)

        return noted

    result_backends.wrap_backend_calls(quiet, result_backends.ASKING_CALLS)
    first, app = (
        Celery(set_as_current=False, backend="cache+memory://") for _ in range(2)
    )
    for each in (first, app):  # the second application of a class finds it done
        each.AsyncResult("nobody").ready()
    assert calls == ["get_task_meta"] * 2
    with patch.object(Backend, "get_task_meta", return_value={"status": "SUCCESS"}):
        assert app.AsyncResult("somebody").state == "SUCCESS", "later patches win"
    assert pickle.loads(pickle.dumps(app.backend)) is not None
    odd = Celery(set_as_current=False, backend=f"{__name__}:Odd+memory://")
    odd.backend.forget("x")
