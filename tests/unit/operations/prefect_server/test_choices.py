"""The versions that a form offers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mlplatform.operations.prefect_server import choices
from mlplatform.operations.prefect_server.choices import MOST, VERSIONS, with_versions
from mlplatform.runtime.errors import Unavailable
from support.flow_forms import form


def offered(schema: dict[str, Any], name: str) -> list[Any]:
    field = schema["properties"][name]
    found = [one.get("enum") for one in field.get("anyOf", [field]) if one["type"] == "integer"]
    assert len(found) == 1
    return found


@pytest.mark.parametrize(("flow", "name"), [(f, n) for f, ns in VERSIONS.items() for n in ns])
def test_each_version_of_a_form_is_chosen_from_those_that_there_are(flow: str, name: str) -> None:
    plain = form(flow)
    made = with_versions(plain, VERSIONS[flow], [7, 2, 1])
    assert offered(made, name) == [[7, 2, 1]]
    assert offered(with_versions(made, VERSIONS[flow], [8, 7]), name) == [[8, 7]]
    assert with_versions(made, VERSIONS[flow], []) == plain


def test_no_version_is_out_of_reach() -> None:
    plain = form("promote")
    assert with_versions(plain, VERSIONS["promote"], range(MOST + 1, 0, -1)) == plain


@dataclass
class Registry:
    """A registry with versions, or away."""

    numbers: list[int] | None

    def versions(self, model: str) -> list[Any]:
        if self.numbers is None:
            raise Unavailable("MLflow")
        return [VersionNumber(number) for number in self.numbers]


@dataclass
class VersionNumber:
    version: int


@dataclass
class World:
    registry: Registry
    written: list[tuple[str, list[int]]] = field(default_factory=list)


@pytest.mark.parametrize(
    ("numbers", "answers", "written"),
    [([1, 7, 2], True, [7, 2, 1]), ([], True, []), (None, False, [])],
    ids=["the newest first", "none yet", "a registry that is away"],
)
def test_forms_are_written_from_the_registry(
    monkeypatch: pytest.MonkeyPatch, numbers: list[int] | None, answers: bool, written: list[int]
) -> None:
    world = World(Registry(numbers))
    monkeypatch.setattr(
        choices, "write_versions", lambda model, found: world.written.append((model, list(found)))
    )
    assert choices.offer_versions(world, "fraud") is answers  # type: ignore[arg-type]
    assert world.written == [("fraud", written)]


class NoForms(ThreadingHTTPServer):
    """A Prefect server that answers this status where it is asked for a form: 503 while its
    database is locked, 404 without one."""

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), NoForm)
        self.status, self.asked = status, 0

    def __enter__(self) -> NoForms:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class NoForm(BaseHTTPRequestHandler):
    server: NoForms

    def do_GET(self) -> None:
        is_of_a_form = "/deployments/" in self.path
        self.server.asked += is_of_a_form
        self.send_response(self.server.status if is_of_a_form else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test counts."""


@pytest.mark.parametrize(
    ("status", "asked", "first"),
    [
        (503, 2, "the forms of fraud, from promote on, keep the versions"),
        (404, len(VERSIONS), "the flow promote of fraud is not registered"),
    ],
    ids=["busy", "without forms"],
)
def test_a_server_without_forms_holds_up_no_run_that_registered_a_version(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    asked: int,
    first: str,
) -> None:
    """Flow runs retry for minutes; a form is worth less. A busy server is asked for no other."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    monkeypatch.setattr(choices, "RETRIES", 1)
    with NoForms(status) as server:
        url = f"http://127.0.0.1:{server.server_port}/api"
        with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 7}):
            choices.write_versions("fraud", [2, 1])
    assert server.asked == asked
    told = [r.getMessage() for r in caplog.records if "fraud" in r.getMessage()]
    assert len(told) == (1 if status == 503 else asked)
    assert told[0].startswith(first)
