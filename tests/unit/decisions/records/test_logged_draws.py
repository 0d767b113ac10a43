"""What a record says of the exploration slice is read from its payload."""

from __future__ import annotations

import pyarrow as pa

from mlplatform.decisions.records.draws import LoggedDraw, logged_draws


def test_draws_are_read_and_other_records_left_out() -> None:
    table = pa.table(
        {
            "decision_id": ["a", "b", "c", "d"],
            "payload": [
                '{"client":"x","propensity":0.02,"explored":true,"explored_instead_of":"decline"}',
                '{"request":{"note":"\\"propensity\\":"}}',
                None,
                '{"propensity":0.0,"not_explored":"sum"}',
            ],
        }
    )
    assert logged_draws(table) == {
        "a": LoggedDraw(0.02, explored=True, explored_instead_of="decline"),
        "d": LoggedDraw(0.0),
    }
