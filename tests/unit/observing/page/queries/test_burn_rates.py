"""Prometheus is asked seldom, bounded in time, and believed in nothing but its form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from mlplatform.observing.page.queries.burn_rates import KEPT_S, BurnRates, parse
from mlplatform.runtime.errors import Unavailable


def reply(*series: tuple[dict[str, str], str]) -> bytes:
    """As Prometheus' `/api/v1/query` gives a vector."""
    result = [{"metric": metric, "value": [1_795_858_200.0, value]} for metric, value in series]
    data = {"resultType": "vector", "result": result}
    return json.dumps({"status": "success", "data": data}).encode()


FRAUD = {"__name__": "slo:period_burn_rate:ratio", "service": "fraud", "slo": "availability"}


def test_a_spend_is_by_model_and_objective() -> None:
    found = parse(reply((FRAUD, "0.25"), ({**FRAUD, "slo": "latency"}, "1.5")))
    assert found == {("fraud", "availability"): 0.25, ("fraud", "latency"): 1.5}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_what_is_no_spend_is_left_out(value: str) -> None:
    assert parse(reply((FRAUD, value))) == {}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"status":"error"}', reply(({"slo": "x"}, "1")), reply((FRAUD, "many")),
     b"[" * 100_000],
    ids=["empty", "list", "error", "no service", "no number", "deep"],
)  # fmt: skip
def test_another_form_is_unavailable(body: bytes) -> None:
    with pytest.raises(Unavailable, match="burn rates can't be read"):
        parse(body)


class Prometheus(BaseHTTPRequestHandler):
    """Answers with one spend, and remembers what it was asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = reply((FRAUD, "0.25"))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is pytest's."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Prometheus,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}", asked
        made.shutdown()


def test_many_views_ask_once(server: tuple[str, list[str]]) -> None:
    url, asked = server
    now_s = 0.0
    rates = BurnRates(url + "/", lambda: now_s)
    assert [rates.read() for _ in range(5)] == [{("fraud", "availability"): 0.25}] * 5
    assert asked == ["/api/v1/query?query=slo%3Aperiod_burn_rate%3Aratio"]
    now_s = KEPT_S + 1
    rates.read()
    assert len(asked) == 2


def test_that_it_is_away_is_kept_too() -> None:
    rates = BurnRates("http://127.0.0.1:1", lambda: 0.0)
    found = []
    for _ in range(2):
        with pytest.raises(Unavailable) as error:
            rates.read()
        found.append(error.value)
    assert found[0] is found[1]
