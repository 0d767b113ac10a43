"""A server without a log-in answers programs and its own pages, and no other site's page."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from mlplatform.runtime.http.cross_site_guard import CrossSiteGuard


async def _page(_: Request) -> PlainTextResponse:
    return PlainTextResponse("done")


async def _talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


INNER = Starlette(
    routes=[Route("/", _page, methods=["GET", "POST"]), WebSocketRoute("/talk", _talk)]
)
APP = CrossSiteGuard(INNER, ["127.0.0.1:4200", "localhost:4200"])


def client(host: str = "127.0.0.1:4200") -> TestClient:
    return TestClient(APP, base_url=f"http://{host}")


def post(host: str, headers: dict[str, str]) -> httpx.Response:
    return client(host).post("/", content="{}", headers=headers)


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("127.0.0.1:4200", {}, 200),
        ("LOCALHOST:4200", {}, 200),
        ("localhost:4200", {"Origin": "http://localhost:4200"}, 200),
        ("127.0.0.1:4200", {"Origin": "http://evil.example"}, 403),
        ("127.0.0.1:4200", {"Origin": "null"}, 403),
        ("127.0.0.1:4200", {"Origin": "http://127.0.0.1:8080"}, 403),
        ("evil.example:4200", {}, 403),
        ("evil.example:4200", {"Origin": "http://evil.example:4200"}, 403),
    ],
    ids=[
        "a program",
        "a program, by name",
        "its own page",
        "another site's page",
        "a page of no site",
        "another server's page on this machine",
        "a name made to mean this machine",
        "a page under that name",
    ],
)
def test_who_may_ask(host: str, headers: dict[str, str], status: int) -> None:
    assert post(host, headers).status_code == status


def test_another_sites_page_opens_no_socket() -> None:
    with client().websocket_connect("/talk", headers={"Host": "127.0.0.1:4200"}) as socket:
        assert socket.receive_text() == "hello"
    evil = {"Host": "127.0.0.1:4200", "Origin": "http://evil.example"}
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("/talk", headers=evil):
        pass
