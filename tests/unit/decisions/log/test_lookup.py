"""An id that the log does not have is answered by how ids look, if this one can't be one."""

from __future__ import annotations

import pytest

from mlplatform.decisions.log.lookup import ID_DIGITS, not_logged
from mlplatform.scoring.request.decision_ids import new_decision_id


@pytest.mark.parametrize("digits", [41, 43, 3])
def test_an_id_of_another_length_is_told(digits: int) -> None:
    said = str(not_logged("0" * digits))
    assert f"an id has {ID_DIGITS[0]} digits, and this one {digits}; an id stands in" in said


def test_an_id_of_the_usual_length_may_be_another_logs() -> None:
    made = new_decision_id("fraud", "shop", 0, b"key")
    assert len(made) == ID_DIGITS[0]
    assert "digits" not in str(not_logged(made))
