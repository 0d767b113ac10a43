"""Payloads that are decoded many at once are those that each would be by itself."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from mlplatform.decisions.records.draws import LoggedDraw
from mlplatform.decisions.records.payloads import decoded_payloads
from mlplatform.runtime.errors import Corrupt


def table(*payloads: str) -> pa.Table:
    ids = pa.array([f"d{number}" for number in range(len(payloads))], pa.string())
    return pa.table({"decision_id": ids, "payload": pa.array(payloads, pa.string())})


def test_every_payload_is_decoded_in_order_however_many_chunks_and_portions_there_are() -> None:
    each = [f'{{"propensity":{number / 20_000},"client":"é, ]"}}' for number in range(12_001)]
    chunks = pa.concat_tables([table(*each[:7]), table(*each[7:])])
    expected = [LoggedDraw(number / 20_000) for number in range(12_001)]
    assert decoded_payloads(chunks, LoggedDraw) == expected
    assert decoded_payloads(table(), LoggedDraw) == []


@pytest.mark.parametrize("wrong", ['{"propensity":2}', "{}x", "{},{}", "", '{"a":"'])
def test_a_payload_that_is_wrong_is_named_by_its_decision(wrong: str) -> None:
    with pytest.raises(Corrupt, match=re.escape("decision d1: payload: ")):
        decoded_payloads(table("{}", wrong, '"}', "{}"), LoggedDraw)


@pytest.mark.parametrize("pieces", [('{"a":"', '"}', "{},{}"), ("{}\n{}", ""), ("", "{}\n{}")])
def test_payloads_that_are_wrong_only_one_by_one_are_refused(pieces: tuple[str, ...]) -> None:
    """Together they are a text of as many values."""
    with pytest.raises(Corrupt, match=r"decision d[01]: payload: "):
        decoded_payloads(table(*pieces), LoggedDraw)


def test_a_payload_of_several_lines_is_one() -> None:
    found = decoded_payloads(table('{"propensity":\n0.5}', "{}"), LoggedDraw)
    assert found == [LoggedDraw(0.5), LoggedDraw()]
