"""A store that takes connections and answers nothing is told as unavailable, soon."""

from __future__ import annotations

import socket
import time

import pytest

from mlplatform.commands.terminal.hints import hint
from mlplatform.runtime.errors import ServerUnavailable
from mlplatform.runtime.storage import objects


def test_a_store_that_never_answers_is_unavailable_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "READ_S", 0.2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        unreachable = "the objects below s3://bucket/models can't be reached"
        with pytest.raises(ServerUnavailable, match=unreachable) as caught:
            objects.Objects("s3://bucket/models").names()
        assert hint(caught.value, {}).startswith("look at the store"), "not `mlplatform up`"
    assert time.monotonic() - begun < 30, "botocore's own default is a minute a try"
