"""What a log line loses: the values of the fields that applications send, and nothing else."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.folders import load_definition, personal_fields
from mlplatform.runtime.telemetry import retention
from mlplatform.runtime.telemetry.logs import DebugShare, JsonLines, handler
from mlplatform.runtime.telemetry.redaction import REDACTED, FieldPolicy

FIELDS = FieldPolicy(["customer_id", "amount", "amount_to_mean_30d"])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("customer_id=17 failed", f"customer_id={REDACTED} failed"),
        ("{'customer_id': 17, 'hour': 3}", f"{{'customer_id': {REDACTED}, 'hour': 3}}"),
        ('{"amount":40.5}', f'{{"amount":{REDACTED}}}'),
        ('amount = "forty and more"', f"amount = {REDACTED}"),
        ("amount_to_mean_30d: 1.5", f"amount_to_mean_30d: {REDACTED}"),
        ("the amount is large", "the amount is large"),
        ("total_amount=3", "total_amount=3"),
    ],
)
def test_a_value_goes_where_its_fields_name_stands_before_it(text: str, left: str) -> None:
    assert FIELDS.applied(text) == left


def test_a_short_value_of_a_large_batch_goes_as_well_as_long_ones() -> None:
    items = [{"amount": 1000 + n, "note": f"a long text of item {n:06d}"} for n in range(2000)]
    sent = json.dumps({"items": items}).encode()
    assert FIELDS.applied("1234 is too much", sent) == f"{REDACTED} is too much"
    assert FIELDS.applied(" ".join(i["note"] for i in items), sent) == REDACTED


def test_values_of_the_request_under_way_go_wherever_they_stand() -> None:
    sent = b'{"customer_id": 8675309, "amount": 40.0, "note": ["a name", true, null]}'
    text = "8675309 has no 40.0 or 40; 18675309 and 'a name' at line 409"
    assert FIELDS.applied(text, sent) == (
        f"{REDACTED} has no {REDACTED} or 40; 18675309 and '{REDACTED}' at line 409"
    )


def test_words_of_a_body_that_is_no_json_go_as_well() -> None:
    assert FIELDS.applied("what is 8675309", b"\x08customer\x12\x018675309") == (
        f"what is {REDACTED}"
    )


@given(st.binary(max_size=200), st.text(max_size=100))
def test_any_body_and_any_text_at_all_are_taken(sent: bytes, text: str) -> None:
    assert isinstance(FIELDS.applied(text, sent), str)


def test_the_policy_is_what_model_yaml_declares() -> None:
    personal = load_definition("fraud").personal
    assert {"customer_id", "terminal_id", "amount", "customer_mean_1d"} <= personal
    assert "hour" not in personal
    for name in personal:
        assert personal_fields().applied(f"{name}=1234") == f"{name}={REDACTED}"


def formatted(record: logging.LogRecord) -> str:
    return JsonLines("gateway", FIELDS, "gateway-0").format(record)


def test_message_and_error_lose_values_and_the_body_is_not_in_the_line() -> None:
    sent = b'{"customer_id": 8675309}'
    try:
        raise ValueError("no such customer: 8675309")
    except ValueError:
        record = logging.LogRecord(
            "a", logging.ERROR, "f.py", 1, "%s failed", (8675309,), sys.exc_info()
        )
    record.sent = sent
    text = formatted(record)
    assert "8675309" not in text
    line = json.loads(text)
    assert line["message"] == f"{REDACTED} failed"
    assert f"no such customer: {REDACTED}" in line["error"]


def debug(**named: str) -> logging.LogRecord:
    record = logging.LogRecord("a", logging.DEBUG, "f.py", 1, "m", (), None)
    vars(record).update(named)
    return record


def test_a_tenth_of_debug_lines_passes_and_those_of_one_decision_together() -> None:
    share = DebugShare()
    passed = [share.filter(debug(decision_id=f"{n:032x}")) for n in range(4000)]
    assert sum(passed) == pytest.approx(4000 * retention.DEBUG_SHARE, rel=0.2)
    assert passed == [share.filter(debug(decision_id=f"{n:032x}")) for n in range(4000)]
    assert sum(share.filter(debug()) for _ in range(4000)) == pytest.approx(400, rel=0.3)


def test_other_lines_pass_all() -> None:
    assert DebugShare(0.0).filter(logging.LogRecord("a", logging.INFO, "", 1, "m", (), None))


def test_a_log_of_our_own_is_turned_when_it_is_full_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOGS", retention.Retention(2000, 3))
    path = tmp_path / "supervisor.log"
    made = handler("supervisor", FIELDS, to=path)
    for number in range(200):
        made.emit(logging.LogRecord("a", logging.INFO, "f.py", 1, f"line {number}", (), None))
    made.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [
        "supervisor.log",
        "supervisor.log.1",
        "supervisor.log.2",
    ]
    assert all(file.stat().st_size <= 2000 for file in files)
    assert "line 199" in path.read_text()


def test_a_file_that_its_writer_keeps_open_is_emptied_in_place(tmp_path: Path) -> None:
    path, kept = tmp_path / "gateway-0.log", retention.Retention(10, 3)
    with path.open("ab", buffering=0) as writer:
        for number in range(4):
            writer.write(f"number {number}\n".encode())
            retention.rotate_in_place(path, kept)
        writer.write(b"last\n")
    assert path.read_text() == "last\n"
    assert path.with_name("gateway-0.log.1").read_text() == "number 3\n"
    assert path.with_name("gateway-0.log.2").read_text() == "number 2\n"
    assert len(list(tmp_path.iterdir())) == 3
