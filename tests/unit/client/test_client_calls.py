"""The client library's requests and answers: what is sent, what is read, what is refused."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform_client import (
    Answer,
    AnswerNotUnderstood,
    CallFailed,
    Conflict,
    Explanation,
    InputRefused,
    Label,
    NotAllowed,
    NotAuthenticated,
    NotExplained,
    NotFound,
    Overloaded,
    Terms,
    Unavailable,
    calls,
)
from mlplatform_client.exchange import Call, Continuation, Reply, Result
from mlplatform_client.replies import error_of, may_repeat, retry_after_s

ID = "01a21cf9d917db1571637d8a38468b8bb36e16c278"
KEY = "payment-1"
PAYMENT = {"customer_id": 7, "amount": 31.5, "event_time": 1_700_000_000_000}
LABEL = Label(label=1, decision_id=ID)
JSON = {"content-type": "application/json"}
ANSWER: dict[str, Any] = {
    "decision_id": ID,
    "decision": "review",
    "score": 0.62,
    "reasons": [{"code": "AMOUNT", "text": "The amount is high"}],
    "reasons_omitted": None,
    "answered_by": "champion",
    "model": {"version": 3, "bundle": "2ae0"},
    "route": {"arm": "champion", "generation": 9},
    "degraded": None,
    "feature_gaps": {"missing": ["customer_30d"]},
}
EXPLANATION: dict[str, Any] = {
    "decision_id": ID,
    "decision": "review",
    "score": 0.62,
    "answered_by": "champion",
    "model": {"version": 3, "bundle": "2ae0"},
    "degraded": None,
    "method": "tree_shap",
    "baseline": -4.1,
    "contributions": [
        {"input": "amount", "value": 620.0, "ordinary": 31.5, "contribution": 3.2},
        {"input": "channel", "value": "web", "ordinary": None, "contribution": -0.1},
    ],
    "rules": [],
    "reasons": [{"code": "AMOUNT", "text": "The amount is high"}],
    "note": None,
}


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, JSON | {k.replace("_", "-"): v for k, v in headers.items()}, content)


def problem(status: int, name: str, **fields: str) -> dict[str, Any]:
    kind = f"urn:mlplatform:problem:{name}"
    return {"type": kind, "title": "", "status": status, "detail": "it is so", **fields}


def refusal(status: int, name: str, **fields: str) -> Reply:
    kind = {"content-type": "application/problem+json"}
    return Reply(status, kind, json.dumps(problem(status, name, **fields)).encode())


def test_a_score_is_asked_with_its_key_and_its_terms() -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    terms = Terms(within_ms=80, priority="background", traceparent=trace, version=7)
    call = calls.score("fraud", PAYMENT, KEY, terms)
    assert (call.method, call.path) == ("POST", "/api/v2/models/fraud/score")
    assert dict(call.headers) == {
        "content-type": "application/json",
        "idempotency-key": KEY,
        "x-request-timeout-ms": "80",
        "x-priority": "background",
        "traceparent": trace,
        "mlplatform-version": "7",
    }
    assert json.loads(call.body or b"") == PAYMENT


def test_times_and_decimals_are_written_as_the_api_takes_them() -> None:
    now = datetime(2026, 5, 23, 11, 11, 27, tzinfo=UTC)
    call = calls.score("fraud", {"amount": Decimal("31.50"), "event_time": now}, KEY)
    assert call.body == b'{"amount":31.50,"event_time":"2026-05-23T11:11:27Z"}'
    assert calls.score("fraud", b'{"amount": 1}', KEY).body == b'{"amount": 1}'


def test_a_row_of_a_data_frame_is_written_as_its_plain_values() -> None:
    row = {"amount": 31.5, "event_time": pd.Timestamp("2026-05-23T13:11:27.5", tz="Europe/Berlin")}
    (record,) = pd.DataFrame([row]).to_dict("records")
    written = b'{"amount":31.5,"event_time":"2026-05-23T13:11:27.500000+02:00"}'
    assert calls.score("fraud", record, KEY).body == written
    assert written[:-1] in (calls.score_batch("fraud", [record], [KEY]).body or b"")


SCALARS: list[tuple[Any, bytes]] = [
    (np.int64(7), b"7"),
    (np.uint64(2**64 - 1), b"18446744073709551615"),
    (np.int8(-1), b"-1"),
    (np.float64(31.5), b"31.5"),
    (np.float32(0.1), b"0.10000000149011612"),
    (np.float16(0.5), b"0.5"),
    (np.bool_(True), b"true"),
    (np.str_("web"), b'"web"'),
    (np.array(7), b"7"),
]


@pytest.mark.parametrize(("value", "written"), SCALARS, ids=repr)
def test_scalars_of_numpy_are_written_as_plain_values_everywhere(
    value: Any, written: bytes
) -> None:
    one = b'{"a":' + written + b"}"
    assert calls.score("fraud", {"a": value}, KEY).body == one
    assert calls.score("faces", {"a": [value]}, KEY).body == b'{"a":[' + written + b"]}"
    assert calls.push("device", [{"a": value}], KEY).body == b'{"rows":[' + one + b"]}"
    assert one[:-1] in (calls.score_batch("fraud", [{"a": value}], [KEY]).body or b"")
    assert one in (calls.rank("offers", {"b": value}, [{"a": value}], KEY).body or b"")
    labelled = calls.labels("fraud", [Label(label=value, decision_id=ID)]).body or b""
    assert b'"label":' + written in labelled


@pytest.mark.parametrize(
    ("make", "field", "said"),
    [
        (lambda: calls.score("../x", PAYMENT, KEY), "model", "'../x'; wanted: the name of"),
        (lambda: calls.score("fraud", PAYMENT, "a b"), "key", "'a b'; wanted: 1 to 255"),
        (lambda: calls.score("fraud", PAYMENT, "a\r\nx: y"), "key", "wanted: 1 to 255"),
        (lambda: calls.score("fraud", {"amount": math.nan}, KEY), "amount", "nan; wanted: a"),
        (lambda: calls.score("fraud", {"amount": Decimal("Infinity")}, KEY), "amount", "finite"),
        (lambda: calls.score("faces", {"face": [0.5, math.nan]}, KEY), "face[1]", "finite"),
        (lambda: calls.score("faces", {"face": (math.inf, 0.5)}, KEY), "face[0]", "finite"),
        (lambda: calls.score("faces", {"face": {0.5, 0.25}}, KEY), "face", "a list, which has"),
        (lambda: calls.score("faces", {"face": np.zeros(2)}, KEY), "face", "or a list of them"),
        (lambda: calls.score("faces", {"face": np.zeros(1)}, KEY), "face", "a ndarray of NumPy"),
        (lambda: calls.score("faces", {"face": [np.float32("nan")]}, KEY), "face[0]", "finite"),
        (lambda: calls.score("fraud", {"amount": np.float64("inf")}, KEY), "amount", "finite"),
        (lambda: calls.score("fraud", {"amount": np.longdouble(1)}, KEY), "amount", "scalar"),
        (lambda: calls.score("fraud", {"amount": np.complex64(1)}, KEY), "amount", "scalar"),
        (
            lambda: calls.score("fraud", {"event_time": np.datetime64(1, "ns")}, KEY),
            "event_time",
            "a datetime64 of NumPy",
        ),
        (
            lambda: calls.push("device", [{"a": 1}, {"a": np.float32("inf")}], KEY),
            "rows[1].a",
            "finite",
        ),
        (
            lambda: calls.score("fraud", {"event_time": datetime(2026, 1, 1)}, KEY),  # noqa: DTZ001
            "event_time",
            "a datetime with a time zone",
        ),
        (lambda: calls.score("fraud", {"amount": object()}, KEY), "amount", "of type object;"),
        (lambda: calls.score("fraud", {"amount": pd.NA}, KEY), "amount", "of type NAType;"),
        (lambda: calls.score("fraud", {"event_time": pd.NaT}, KEY), "event_time", "a time zone"),
        (lambda: calls.score("fraud", {"web": b"7"}, KEY), "web", "bytes; wanted: a text"),
        (lambda: calls.score("fraud", {"web": [b"7"]}, KEY), "web[0]", "bytes; wanted: a text"),
        (lambda: calls.score("fraud", [PAYMENT], KEY), "request", "list; wanted: a dict"),
        (lambda: calls.score("fraud", None, KEY), "request", "NoneType; wanted: a dict"),
        (lambda: calls.score_batch("fraud", ["x"], [KEY]), "requests[0]", "str; wanted: a dict"),
        (lambda: calls.push("bureau", [{}, "x"], KEY), "rows[1]", "str; wanted: a dict"),
        (lambda: calls.labels("fraud", [{"label": 1}]), "labels[0]", "dict; wanted: a Label"),
        (lambda: calls.score("fraud", PAYMENT, KEY, Terms(within_ms="9")), "within_ms", "10000 ms"),
        (lambda: calls.score("fraud", PAYMENT, KEY, Terms(within_ms=4)), "within_ms", "5 to 10000"),
        (
            lambda: calls.score("fraud", PAYMENT, KEY, Terms(traceparent="x\r\ny: z")),
            "traceparent",
            "W3C",
        ),
        (lambda: calls.score_later("fraud", PAYMENT, KEY, Terms(within_ms=9)), "within_ms", "late"),
        (lambda: calls.score_later("fraud", PAYMENT, KEY, Terms(version=7)), "version", "late"),
        (lambda: calls.score("fraud", PAYMENT, KEY, Terms(version=0)), "version", "from 1"),
        (lambda: calls.score("fraud", PAYMENT, KEY, Terms(version="7\r\nx: y")), "version", "64"),
        (lambda: calls.decision("../../models"), "decision_id", "an id as an answer has it"),
        (lambda: calls.explanation("fraud", "../x"), "decision_id", "an id as an answer has it"),
        (lambda: calls.explanation("a/b", ID), "model", "the name of a model"),
        (lambda: calls.score_batch("fraud", [], []), "requests", "requests is 0 items;"),
        (lambda: calls.score_batch("fraud", [PAYMENT] * 2, [KEY]), "keys", "keys is 1 keys;"),
        (lambda: calls.score_batch("fraud", [PAYMENT] * 2, [KEY] * 2), "keys", "a list with one"),
        (
            lambda: calls.score_batch("fraud", [{"idempotency_key": "x"}], [KEY]),
            "idempotency_key",
            "the key in `keys`",
        ),
        (lambda: calls.labels("fraud", [Label(label=1)]), "labels[0]", "either decision_id or"),
        (lambda: calls.labels("fraud", []), "labels", "0 items"),
        (lambda: calls.push("bureau", [], KEY), "rows", "0 items"),
        (lambda: calls.push("a/b", [{}], KEY), "view", "the name of a view"),
        (lambda: calls.push("bureau", [{}, {"x": math.inf}], KEY), "rows[1].x", "finite"),
    ],
)  # fmt: skip
def test_what_can_never_be_right_is_refused_before_it_is_sent(
    make: Callable[[], object], field: str, said: str
) -> None:
    with pytest.raises(InputRefused) as refused:
        make()
    assert refused.value.field == field
    assert said in str(refused.value)
    assert str(refused.value).endswith("Nothing was sent.")


def test_an_answer_is_read_with_what_it_says() -> None:
    read = calls.score("fraud", PAYMENT, KEY).read(reply(ANSWER, idempotency_replayed="true"))
    assert isinstance(read, Result)
    answer = read.value
    assert (answer.decision, answer.score, answer.replayed) == ("review", 0.62, True)
    assert (answer.model and answer.model.version, answer.route.generation) == (3, 9)
    assert answer.feature_gaps is not None
    assert answer.feature_gaps.missing == ("customer_30d",)


def test_an_explanation_is_asked_for_and_read() -> None:
    call = calls.explanation("fraud", ID)
    assert (call.method, call.body, call.is_repeatable) == ("GET", None, True)
    assert call.path == f"/api/v2/models/fraud/decisions/{ID}/explanation"
    read = call.read(reply(EXPLANATION | {"added_later": 1}))
    assert isinstance(read, Result)
    found: Explanation = read.value
    assert [(one.input, one.value) for one in found.contributions] == [
        ("amount", 620.0),
        ("channel", "web"),
    ]
    assert (found.baseline, found.model.version, found.reasons[0].code) == (-4.1, 3, "AMOUNT")
    with pytest.raises(AttributeError):
        found.score = 0.0  # type: ignore[misc]


def test_rules_that_decided_are_read_with_what_they_read() -> None:
    rule = {"code": "RULE_HIGH", "text": "A high amount", "values": {"amount": 800.0, "age": None}}
    by_rules = {"method": None, "baseline": None, "score": None, "contributions": []}
    read = calls.explanation("fraud", ID).read(reply(EXPLANATION | by_rules | {"rules": [rule]}))
    assert isinstance(read, Result)
    assert read.value.rules[0].values == {"amount": 800.0, "age": None}


def test_what_a_later_release_adds_does_no_harm() -> None:
    later = {**ANSWER, "answered_by": "committee", "sum": 1, "route": {**ANSWER["route"], "x": 1}}
    read = calls.score("fraud", PAYMENT, KEY).read(reply(later))
    assert isinstance(read, Result)
    assert read.value.answered_by == "committee"


@pytest.mark.parametrize(
    "strange",
    [
        reply(b"<html>"),
        reply(b""),
        reply(b"[" * 100_000),
        reply(b'"\xff"'),
        reply({**ANSWER, "score": "0.62"}),
        reply({k: v for k, v in ANSWER.items() if k != "decision"}),
        reply(ANSWER, 202),
        reply(b"", 204),
        Reply(200, {"content-type": "text/html"}, json.dumps(ANSWER).encode()),
        Reply(200, JSON | {"content-encoding": "gzip"}, json.dumps(ANSWER).encode()),
        Reply(200, {}, json.dumps(ANSWER).encode()),
    ],
)
def test_what_is_no_answer_is_never_taken_for_one(strange: Reply) -> None:
    with pytest.raises(AnswerNotUnderstood) as found:
        calls.score("fraud", PAYMENT, KEY).read(strange)
    assert (found.value.status, found.value.key) == (strange.status, KEY)


@given(st.binary(max_size=200))
def test_no_bytes_make_another_error(body: bytes) -> None:
    for call in (
        calls.score("fraud", PAYMENT, KEY),
        calls.score_batch("fraud", [PAYMENT], [KEY]),
        calls.labels("fraud", [LABEL]),
        calls.void("fraud", ID, "a test"),
        calls.push("bureau", [{"customer_id": 7}], KEY),
        calls.explanation("fraud", ID),
        calls.waiting(ID),
    ):
        with pytest.raises(AnswerNotUnderstood):
            call.read(reply(body))  # type: ignore[attr-defined]
        assert isinstance(error_of("x", None, Reply(503, {}, body), 0.0), Unavailable)


def test_an_answer_about_something_else_is_not_understood() -> None:
    other = {**ANSWER, "decision_id": "f" * 42}
    for call, body, status in (
        (calls.waiting(ID), other, 200),
        (calls.decision(ID), {"decision_id": "f" * 42, "status": "pending"}, 202),
        (calls.void("fraud", ID, "x"), {"decision_id": "f" * 42, "repeated": False}, 200),
        (calls.explanation("fraud", ID), EXPLANATION | {"decision_id": "f" * 42}, 200),
        (calls.labels("fraud", [LABEL]), {"stored": 0, "repeated": 0}, 200),
        (calls.push("a", [{}], KEY), {"view": "a", "rows": 2, "available_time": 1}, 200),
        (calls.score_batch("fraud", [PAYMENT], [KEY]), {"results": []}, 200),
        (calls.score_batch("fraud", [PAYMENT], [KEY]), {"results": [{}]}, 200),
        (calls.score_later("fraud", PAYMENT, KEY), {"decision_id": "../../x"}, 202),
    ):
        with pytest.raises(AnswerNotUnderstood):
            call.read(reply(body, status))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "name", "kind", "repeats", "repeats_if_not_taken"),
    [
        (400, "malformed-json", InputRefused, False, False),
        (401, "unauthenticated", NotAuthenticated, False, False),
        (403, "forbidden", NotAllowed, False, False),
        (404, "unknown-model", NotFound, False, False),
        (408, "slow-request", Unavailable, True, True),
        (409, "in-flight", Conflict, True, False),
        (413, "too-large", InputRefused, False, False),
        (422, "invalid-field", InputRefused, False, False),
        (422, "unknown-decision", NotFound, False, False),
        (404, "record-not-here", NotFound, False, False),
        (409, "decision-pending", Unavailable, True, False),
        (422, "bundle-gone", NotExplained, False, False),
        (422, "decided-without-model", NotExplained, False, False),
        (422, "idempotency-key-reused", Conflict, False, False),
        (422, "not-reproduced", NotExplained, False, False),
        (422, "payload-erased", NotExplained, False, False),
        (422, "raw-scores", NotExplained, False, False),
        (429, "client-rate", Overloaded, True, True),
        (500, "internal", Unavailable, False, False),
        (503, "explanation-late", Unavailable, True, False),
        (503, "log-unavailable", Unavailable, True, False),
        (503, "overloaded", Overloaded, True, True),
        (503, "no-champion", Unavailable, True, False),
    ],
)
def test_each_refusal_has_its_type_and_says_whether_it_is_asked_again(
    status: int, name: str, kind: type[CallFailed], repeats: bool, repeats_if_not_taken: bool
) -> None:
    error = error_of("score fraud", KEY, refusal(status, name, field="amount"), 0.0)
    assert type(error) is kind
    assert (error.status, error.problem, error.field) == (status, name, "amount")
    assert may_repeat(error, is_repeatable=True) is repeats
    assert may_repeat(error, is_repeatable=False) is repeats_if_not_taken
    assert f"score fraud: amount: it is so ({status} {name})" in str(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, AnswerNotUnderstood),
        (401, NotAuthenticated),
        (404, AnswerNotUnderstood),
        (409, AnswerNotUnderstood),
        (418, AnswerNotUnderstood),
        (502, Unavailable),
        (504, Unavailable),
    ],
)
def test_a_page_of_something_else_is_no_problem_of_the_gateway(
    status: int, kind: type[CallFailed]
) -> None:
    page = Reply(status, {"content-type": "text/html"}, b"<html>")
    assert type(error_of("score fraud", KEY, page, 0.0)) is kind
    assert type(error_of("score fraud", KEY, refusal(422, "x"), 0.0)) is InputRefused


def test_a_text_of_the_gateway_steers_no_terminal() -> None:
    said = json.dumps({**problem(422, "x"), "detail": "\x1b[2J" + "a" * 9000}).encode()
    found = error_of("x", None, Reply(422, {"content-type": "application/problem+json"}, said), 0.0)
    assert "\x1b" not in str(found)
    assert len(str(found)) < 800
    named = json.dumps({**problem(422, "x"), "field": "\x1b[2J" + "a" * 9000}).encode()
    found = error_of("x", None, Reply(422, {"content-type": "application/problem+json"}, named), 0)
    assert found.field is not None
    assert found.field.isprintable()
    assert len(found.field) < 800


def test_an_error_survives_another_process() -> None:
    error = error_of("score fraud", KEY, refusal(422, "invalid-field", field="amount"), 0.0)
    again = pickle.loads(pickle.dumps(error.after(2)))
    assert (type(again), str(again), again.attempts) == (InputRefused, str(error.after(2)), 2)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 0 ", 0.0),
        ("-1", None),
        ("soon", None),
        ("9" * 40, None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
    ],
)
def test_a_retry_after_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, 60.0) == seconds


def test_only_what_may_still_be_answered_of_a_batch_is_asked_again() -> None:
    keys = ["a", "b", "c", "d"]
    call: Call[Any] = calls.score_batch("fraud", [{"n": n} for n in range(4)], keys)
    results = [
        {"answer": {**ANSWER, "decision": "first"}, "replayed": True},
        {"problem": problem(503, "log-unavailable")},
        {"problem": problem(422, "invalid-field")},
        {"problem": problem(409, "in-flight")},
    ]
    read = call.read(reply({"results": results}))
    assert isinstance(read, Continuation)
    assert json.loads(read.call.body or b"") == {
        "requests": [{"n": 1, "idempotency_key": "b"}, {"n": 3, "idempotency_key": "d"}]
    }
    assert read.call.partial is not None
    assert [type(r.error) for r in read.call.partial] == [
        type(None), Unavailable, InputRefused, Conflict,
    ]  # fmt: skip
    again = [{"answer": {**ANSWER, "decision": "second"}}, {"answer": {**ANSWER}}]
    end = read.call.read(reply({"results": again}))
    assert isinstance(end, Result)
    decisions = [r.answer.decision if r.answer else "none" for r in end.value]
    assert decisions == ["first", "second", "none", "review"]
    assert [r.key for r in end.value] == keys
    with pytest.raises(InputRefused, match=r"requests\[2\]"):
        end.value[2].get()
    assert isinstance(end.value[0].get(), Answer)
