"""Typical mistakes in a model.yaml: what is said names line, key, value and what is wanted."""

from __future__ import annotations

import pytest

from mlplatform.model.folders import model_folder, parse
from mlplatform.runtime.errors import ConfigInvalid

TEXT = (model_folder("fraud") / "model.yaml").read_text()
MISTAKES = [
    ("tier: 1", "tier: 4", "tier is 4; wanted: one of 1, 2, 3"),
    ("tier: 1", "teir: 1", "teir is an unknown key; wanted: one of name, owner"),
    ("tier: 1", "teir: 1", "the nearest is tier"),
    ("owner: payments-ml@bank.example\n", "", "owner is missing; wanted: a text"),
    ("name: fraud\n", "name: Fraud\n", "name is 'Fraud'; wanted: a text of the form [a-z]"),
    ("latency_slo_ms: 10", "latency_slo_ms: 10 ms", "is '10 ms'; wanted: a number, not a text"),
    ("deadline_ms: 50", "deadline_ms: 5", "wanted: more than 0 and at most deadline_ms"),
    ("accelerator: cpu", "accelerator: tpu", "is 'tpu'; wanted: one of cpu, gpu, cuda, tensorrt"),
    ("assignment_unit: customer_id", "assignment_unit: customer",
     "is 'customer'; wanted: a request field (customer_id, terminal_id, amount) or 'request'"),
    ("minimum_rows: 5000", "minimum_rows: many", "is 'many'; wanted: a whole number, not a text"),
    ("maturity_days: 3 ", "maturity_days: 0.5 ", "is 0.5; wanted: a whole number, without a frac"),
    ("kind: hour_of_day", "kind: hour",
     "inputs.1.kind is 'hour'; wanted: one of field, category, text, vector, hour_of_day, "),
    ("field, of: amount}", "field, of: amout}",
     "inputs.0.of is 'amout'; wanted: one of amount, terminal_id; the nearest is amount"),
    ("field, of: amount}", "ratio, of: customer_id, to: amount}",
     "inputs.0.of is 'customer_id'; wanted: one of amount, terminal_id"),
    ("field, of: amount}", "field, off: amount}", "the key off is not a text in YAML: write it in"),
    ("alerts: [review, decline]", "alerts: [approve, decline]",
     "decision.alerts is ('approve', 'decline'); wanted: the last of approve, review, decline"),
    ("review: 0.010, decline", "review: 1.5, decline", "is 1.5; wanted: more than 0 and less tha"),
    ("safe: review", "safe: allow", "wanted: of decision.outcomes (approve, review, decline)"),
    ("psi: 0.2", "psi: -0.2", "drift.psi is -0.2; wanted: a number of more than 0"),
    ("inputs: [amount, customer_count_1d,", "inputs: [amout, customer_count_1d,",
     "drift.inputs is ['amout']; wanted: names of `inputs`; the nearest is amount"),
    ("psi: 0.2", "psi: .nan", "fraud/model.yaml: line 213: drift.psi is nan; wanted: a finite num"),
    ("drift:\n", "gpu: {resource: nvidia.com/some}\ndrift:\n",
     r"gpu.resource is 'nvidia.com/some'; wanted: a text of the form nvidia\.com/(gpu|gpu\.sh"),
    ("drift:\n", "signature: {inputs: [{name: x, dtype: bool, shape: [m], of: [x]}]}\ndrift:\n",
     "signature.inputs.0.shape.0 is 'm'; wanted: one of n or a whole number"),
    ("skew: tell", "skew: warn", "gates.skew is 'warn'; wanted: one of tell, refuse"),
    ("shows: [amount, terminal_id]", "shows: [amount, customer_id]",
     "wanted: request fields that are not pseudonymous (terminal_id, amount)"),
    ("window_days: 21", "window_days: 21\n  window_days: 20",
     "the key window_days stands there twice; wanted: YAML as docs/adding-a-model.md shows it"),
    ("\ntier: 1", "\n\ttier: 1", "wanted: YAML as docs/adding-a-model.md shows it, every key once"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "said"), MISTAKES, ids=[f"{m[1].strip()}: {m[2]}" for m in MISTAKES]
)
def test_a_mistake_is_answered_by_line_key_value_and_what_is_wanted(
    before: str, after: str, said: str
) -> None:
    assert before in TEXT
    with pytest.raises(ConfigInvalid) as refused:
        parse(TEXT.replace(before, after, 1), "fraud/model.yaml")
    told = str(refused.value)
    assert told.startswith("fraud/model.yaml: ")
    assert "line " in told
    assert said in told


def test_no_message_offers_a_kind_of_input_that_the_platform_alone_writes() -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse(TEXT.replace("kind: hour_of_day", "kind: hour", 1), "fraud/model.yaml")
    assert str(refused.value).endswith("ratio, view, window")
    with pytest.raises(ConfigInvalid, match=r"inputs.1.kind is 'remainder'; wanted: another kind"):
        parse(TEXT.replace("kind: hour_of_day", "kind: remainder", 1), "fraud/model.yaml")
