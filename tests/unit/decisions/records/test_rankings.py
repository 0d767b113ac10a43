"""Places of items in records, and items that nobody was shown."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlplatform.decisions.records.rankings import place_of
from mlplatform.learning.features.hidden_outcomes import interventions
from mlplatform.learning.features.rows import decided_of, payloads_of
from mlplatform.model.folders import load_definition
from mlplatform.runtime.errors import Corrupt

PLACE: dict[str, Any] = {"id": "a", "place": 1, "item": 2, "of": 3, "by": "score"}
UNSEEN = PLACE | {"place": 3, "item": 0, "withheld": True}


def _decisions(*payloads: dict[str, Any]) -> pa.Table:
    texts = [json.dumps({"request": {}, **payload}) for payload in payloads]
    count = len(texts)
    return pa.table(
        {
            "decision_id": [f"d{number}" for number in range(count)],
            "decision": ["offer"] * count,
            "answered_by": ["champion"] * count,
            "payload": pa.array(texts, pa.string()),
        }
    )


def test_a_place_that_is_none_is_named_by_its_decision() -> None:
    with pytest.raises(Corrupt, match=r"decision d0: payload: .*ranking.place"):
        payloads_of(_decisions({"ranking": UNSEEN | {"place": 0}}), load_definition("fraud"))


def test_they_are_hidden_from_training_unless_somebody_labels_them() -> None:
    table = _decisions({"ranking": PLACE}, {"ranking": UNSEEN}, {"ranking": UNSEEN}, {})
    decided = decided_of(table, payloads_of(table, load_definition("fraud")), hides=())
    assert decided.column(0).to_pylist() == ["d1", "d2"]
    assert decided.column("by_model").to_pylist() == [False, False], "no threshold stopped them"
    found = interventions(decided, np.array([False, True]))
    assert found is not None
    assert found.hidden.tolist() == [True, False]


def test_a_place_is_told_in_words() -> None:
    assert place_of(None) is place_of({}) is None
    first, last = place_of({"ranking": PLACE}), place_of({"ranking": UNSEEN | {"by": "request"}})
    assert first is not None
    assert last is not None
    assert first.sentence == "place 1 of 3 items by score, in ranking a"
    assert last.sentence.endswith("as the request had them, in ranking a; nobody was shown it")
    with pytest.raises(Corrupt, match="ranking"):
        place_of({"ranking": PLACE | {"by": "chance"}})
