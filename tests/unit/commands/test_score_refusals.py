"""A refused request is told with the value that was typed, and names its field once."""

from __future__ import annotations

import pytest

from mlplatform.commands.score import _with_value
from mlplatform.commands.terminal.gateway import error_of
from mlplatform.runtime.errors import InputInvalid
from mlplatform_client import InputRefused
from mlplatform_client.errors import Facts


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "customer_id must be 0 or more (422 invalid-field)",
            "score fraud: customer_id is -7 but must be 0 or more (422 invalid-field). Change it.",
        ),
        (
            "customer_id has no value that fits (422 invalid-field)",
            "customer_id is -7; score fraud: customer_id has no value that fits"
            " (422 invalid-field). Change it.",
        ),
    ],
)
def test_the_typed_value_stands_in_the_sentence_about_its_field(message: str, told: str) -> None:
    failed = InputRefused(
        Facts(call="score fraud", message=message, way_out="Change it.", field="customer_id")
    )
    error = error_of(failed, "http://gateway")
    error.__cause__ = failed
    assert isinstance(error, InputInvalid)
    assert _with_value(error, {"customer_id": -7}).problem == told
