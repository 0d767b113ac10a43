"""What a command says and how it ends where the gateway gives no answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlplatform.commands.terminal import gateway
from mlplatform.commands.terminal.exit_codes import exit_code
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Unavailable
from mlplatform_client.exchange import NoReply, Reply
from mlplatform_client.replies import error_of, error_without_reply, not_understood
from support.ports import free_port

URL = "http://127.0.0.1:8080"


def refusal(status: int, name: str = "so") -> Reply:
    problem = {"type": f"urn:mlplatform:problem:{name}", "detail": "it is so", "status": status}
    kind = {"content-type": "application/problem+json"}
    return Reply(status, kind, json.dumps(problem).encode())


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((400, 404, 413, 415, 422), 2),
        ((401, 403), 4),
        ((409, 429, 502, 503, 504), 3),
        ((500, 501), 1),
    ],
)
def test_each_refusal_of_the_gateway_has_its_exit_code(
    statuses: tuple[int, ...], code: int
) -> None:
    failed = [error_of("score fraud", "k", refusal(status), 0.0) for status in statuses]
    assert {exit_code(gateway.error_of(error, URL)) for error in failed} == {code}
    assert "score fraud: it is so" in str(gateway.error_of(failed[0], URL))


def test_a_key_that_was_used_before_is_a_mistake_and_no_outage() -> None:
    failed = error_of("score fraud", "k", refusal(422, "idempotency-key-reused"), 0.0)
    assert exit_code(gateway.error_of(failed, URL)) == 2


def test_what_is_no_gateway_and_what_is_silent_end_differently() -> None:
    strange = not_understood("score fraud", "k", Reply(200, {}, b""), "it is no JSON")
    assert exit_code(gateway.error_of(strange, URL)) == 1
    silent = error_without_reply("score fraud", "k", NoReply("late", "nothing came"))
    assert exit_code(gateway.error_of(silent, URL)) == 3


def test_a_gateway_that_is_not_there_is_asked_once(tmp_path: Path) -> None:
    port = str(free_port())
    settings = load({"MLPLATFORM_HOME": str(tmp_path), "MLPLATFORM_GATEWAY_PORT": port})
    settings.home.create()
    settings.home.api_key.parent.mkdir(parents=True, exist_ok=True)
    settings.home.api_key.write_text("a-key")
    with (
        pytest.raises(Unavailable, match=f"127.0.0.1:{port}.*not reached"),
        gateway.gateway(settings) as client,
    ):
        client.score("fraud", b"{}")
