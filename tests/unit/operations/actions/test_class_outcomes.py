"""Of matured decisions by class nothing is positive, and their labels are seen to come."""

from __future__ import annotations

import msgspec
import pyarrow as pa
from tests.support.class_model import class_definition

from mlplatform.decisions.records.last_labels import in_order
from mlplatform.operations.actions.last_results import Outcomes
from mlplatform.operations.actions.outcomes import alert_counts


def test_the_newest_label_that_names_a_class_is_told() -> None:
    policy = msgspec.structs.replace(class_definition().decision, alerts=("large",))
    decisions = pa.table({"decision_id": ["a", "b", "c"], "decision": ["small", "large", "large"]})
    labels = pa.table(
        {
            "decision_id": ["a", "b"],
            "event_ms": [5, 9],
            "recorded_ms": [1, 1],
            "seq": [1, 2],
            "decision": ["usual", None],
        }
    )
    voids = pa.table({"decision_id": ["c"]})
    found = alert_counts(decisions, in_order(labels, "classes"), voids, policy)
    assert found == Outcomes(2, 0, 1, 0, 0, 5)
    assert found.recall is None
