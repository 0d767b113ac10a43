"""What a model.yaml may say: whatever else stands in it is an error that names its key."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.model import folders
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.findings import DocumentInvalid, of_shape
from mlplatform.model.folders import load_definition, model_folder, model_names, parse
from mlplatform.model.policies.model_server import ModelServer, model_server
from mlplatform.runtime.errors import ConfigInvalid, NotFound

TEXT = (model_folder("fraud") / "model.yaml").read_text()
FRAUD_INPUTS = [one["name"] for one in yaml.safe_load(TEXT)["inputs"]]
NAN = float("nan")
INFINITY = float("inf")


def changed(path: str, value: Any) -> str:
    """The fraud model's definition with one value replaced, added, or (for None) left out."""
    document = yaml.safe_load(TEXT)
    *parents, last = path.split(".")
    part = document
    for name in parents:
        part = part[int(name) if name.isdigit() else name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return yaml.safe_dump(document)


def refused(text: str, *named: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, "model.yaml")
    for words in ("model.yaml", *named):
        assert words in str(caught.value)


def test_every_model_of_this_installation_has_a_valid_definition() -> None:
    assert "fraud" in model_names()
    for name in model_names():
        assert load_definition(name).name == name
    assert load_definition("fraud").entities == {
        "customer": "customer_id",
        "terminal": "terminal_id",
    }


@pytest.mark.parametrize("path", ["rollout.false_alarm_share", "drift.false_alarm_share"])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_test_that_proves_nothing_or_anything_is_refused(path: str, share: float) -> None:
    refused(changed(path, share), path)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("training.gpu", {"resource": "nvidia.com/mig-1g.10gb", "count": 2}, "training.gpu.count"),
        ("training.gpu", {"resource": "amd.com/gpu"}, "training.gpu.resource"),
        ("training.deadline_s", 59, "training.deadline_s"),
    ],
)
def test_a_fit_asks_for_what_a_cluster_can_give(key: str, value: object, named: str) -> None:
    refused(changed(key, value), named)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"runtime": "triton"}, "serving.scaling"),
        ({"runtime": "triton", "scaling": None, "batch_rows": 127}, "serving.batch_rows"),
        ({"runtime": "Seldon Core"}, "serving.runtime"),
    ],
)
def test_triton_is_asked_for_what_it_can_do(changes: dict[str, Any], named: str) -> None:
    document = yaml.safe_load(TEXT)
    document["serving"] |= changes
    refused(yaml.safe_dump(document), named)
    document["serving"] |= {"runtime": "triton", "scaling": None, "batch_rows": 128}
    assert parse(yaml.safe_dump(document), "model.yaml").serving.runtime == "triton"


SIGNED = {
    "inputs": [
        {
            "name": "rows",
            "dtype": "float64",
            "shape": ["n", len(FRAUD_INPUTS)],
            "of": FRAUD_INPUTS,
            "missing": -1,
        }
    ],
    "outputs": [{"name": "score", "dtype": "float32", "shape": ["n"]}],
    "score": {"output": "score"},
}
OTHER = {"runtime": "bank-xgboost", "storage": "s3://models/fraud/3", "format": "xgboost/2"}


@pytest.mark.parametrize(
    ("changes", "missing", "named"),
    [
        pytest.param({"storage": None, "format": None}, -1, "serving.storage", id="no artefact"),
        pytest.param({"storage": "/srv/model"}, -1, "serving.storage", id="no URI"),
        pytest.param({"format": None}, -1, "serving.format", id="no format"),
        pytest.param({"address": "https://a:1"}, -1, "serving.address", id="TLS"),
        pytest.param({"address": "http://a:80801"}, -1, "serving.address", id="no port"),
        pytest.param({"address": "http://a..b:80"}, -1, "serving.address", id="no host"),
        pytest.param({"runtime": "mlplatform-onnx"}, -1, "serving.runtime", id="our runtime"),
        pytest.param({"runtime": "mlplatform"}, -1, "serving.storage", id="our predictor"),
        pytest.param({"labels": {"mlplatform/model": "x"}}, -1, "serving.labels", id="our label"),
        pytest.param({}, None, "signature.inputs.0.missing", id="NaN"),
    ],
)
def test_another_server_is_asked_for_what_it_can_do(
    changes: dict[str, Any], missing: float | None, named: str
) -> None:
    document = yaml.safe_load(TEXT)
    document["serving"] = {k: v for k, v in document["serving"].items() if k != "scaling"} | OTHER
    document["signature"] = SIGNED
    found = parse(yaml.safe_dump(document), "model.yaml")
    assert model_server(found.serving, 1e-4) == ModelServer(**OTHER, tolerance=1e-4)
    unsigned = {key: value for key, value in document.items() if key != "signature"}
    refused(yaml.safe_dump(unsigned), "signature")
    document["serving"] |= changes
    document["signature"]["inputs"][0]["missing"] = missing
    refused(yaml.safe_dump(document), named)


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_a_bottomless_document_is_refused(opening: str) -> None:
    refused(opening * 5000, "line 1: nested more than 32 deep")


def test_an_unknown_model_is_answered_with_those_that_exist() -> None:
    with pytest.raises(NotFound, match=r"no model 'credit'; there are: .*fraud"):
        load_definition("credit")


def test_a_copied_folder_must_be_given_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "model_folder", lambda _: model_folder("fraud"))
    with pytest.raises(ConfigInvalid, match="name is 'fraud'; wanted: the folder's name, 'credit'"):
        load_definition("credit")


@pytest.mark.parametrize(
    "path",
    [
        "colour",
        "breaker.colour",
        "rollout.shadow.colour",
        "rollout.canary.1.colour",
        "request.amount.colour",
        "inputs.3.colour",
    ],
)
def test_an_unknown_key_is_named(path: str) -> None:
    refused(changed(path, "red"), f"{path} is an unknown key")


@pytest.mark.parametrize(
    "path",
    [
        "name",
        "owner",
        "deadline_ms",
        "when_unrecordable",
        "inputs",
        "request",
        "breaker",
        "request.amount.type",
        "label.maturity_days",
        "training.holdout_days",
        "decision.outcomes",
        "gates.alert_band_factor",
        "breaker.open_s",
        "breaker.slow_share",
        "async.chunk",
        "async.enabled",
        "chain",
        "chain.retry_share",
        "training.small_model.bins",
        "rollout.approval",
        "rollout.shadow.minimum_units",
        "rollout.canary.0.percent",
        "drift.psi",
    ],
)
def test_a_missing_key_is_named(path: str) -> None:
    refused(changed(path, None), f"{path} is missing")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tier", 4),
        ("tier", "1"),
        ("accelerator", "abacus"),
        ("deadline_ms", "fast"),
        ("when_unrecordable", "shrug"),
        ("owner", 5),
        ("inputs", {"amount": "field"}),
        ("training.window_days", 2.5),
        ("drift.inputs", "amount"),
        ("rollout.approval", True),
        ("gates.missing_share", "80 %"),
        ("breaker.window_calls", True),
    ],
)
def test_a_value_of_another_type_is_named(path: str, value: Any) -> None:
    refused(changed(path, value), f"{path}")


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("name", "../fraud", "name"),
        ("name", "Fraud", "name"),
        ("name", "fraud\n", "name"),
        ("owner", " ", "owner"),
        ("request", {}, "request"),
        ("request.", {"type": "bool"}, "request. is ''"),
        ("request.event_time", {"type": "int64"}, "request is 'event_time'"),
        ("deadline_ms", 1e300, "deadline_ms"),
        ("drift.windows", 1_000_000_000, "drift.windows"),
        ("assignment_unit", "household", "assignment_unit is 'household'"),
        ("latency_slo_ms", 51, "latency_slo_ms is 51"),
        ("deadline_ms", NAN, "deadline_ms"),
        ("request.amount.minimum", 2e6, "request.amount.minimum is 2000000.0"),
        ("label.maturity_days", -1, "label.maturity_days"),
        ("training.minimum_rows", 0, "training.minimum_rows"),
        ("training.holdout_days", 1, "training.holdout_days is 1"),
        ("training.holdout_days", 21, "training.holdout_days is 21"),
        ("decision.thresholds.shares.decline", 0, "decision.thresholds.shares.decline is 0"),
        ("decision.thresholds.shares.decline", 0.995, "shares is '1.005 in all'"),
        ("decision.thresholds.shares.decline", NAN, "decision.thresholds.shares.decline is nan"),
        ("gates.calibration_error", NAN, "gates.calibration_error"),
        ("gates.missing_share", 80, "gates.missing_share"),
        ("gates.latency_p99_ms", -1, "gates.latency_p99_ms"),
        ("gates.alert_band_factor", 0.5, "gates.alert_band_factor"),
        ("gates.alert_share_minimum", 0.06, "gates.alert_share_minimum is 0.06"),
        ("breaker.failure_share", 50, "breaker.failure_share"),
        ("breaker.slow_ms", 201, "breaker.slow_ms"),
        ("chain.reserve_share", 1, "chain.reserve_share"),
        ("chain.features_share", 0.8, "chain.features_share is 0.8"),
        ("cache", {"entries": 0, "keep_s": 1}, "cache.entries"),
        ("async.batch", 0, "async.batch"),
        ("async.chunk", 1001, "async.chunk"),
        ("async.connections", 0, "async.connections"),
        ("async.enabled", "yes", "async.enabled"),
        ("breaker.minimum_calls", 101, "breaker.minimum_calls is 101"),
        ("rollout.canary", [], "rollout.canary is []"),
        ("rollout.shadow.tolerance.alerts", 0.1, "rollout.shadow.tolerance.alerts is 0.1"),
        ("rollout.canary.0.tolerance.failures", 0.001, "rollout.canary.0.tolerance.failures is"),
        ("rollout.stop.latency_p99", 0.9, "rollout.stop.latency_p99"),
        ("rollout.canary.0.percent", 60, "rollout.canary is [60.0, 25.0"),
        ("rollout.canary.2.percent", 101, "rollout.canary"),
        ("rollout.shadow.deadline_h", 0, "rollout.shadow.deadline_h"),
        ("rollout.canary.1.minimum_h", 999, "rollout.canary.1.minimum_h is 999"),
        ("drift.psi", NAN, "drift.psi"),
        ("drift.psi", INFINITY, "drift.psi is inf"),
        ("rollout.canary.2.deadline_h", INFINITY, "rollout.canary.2.deadline_h is inf"),
        ("drift.drifted_windows", 4, "drift.drifted_windows is 4"),
        ("drift.inputs", ["amount", "colour"], "drift.inputs is ['colour']"),
        ("inputs.1.name", "amount", "inputs is ['amount', 'amount'"),
    ],
)
def test_a_value_that_cannot_be_is_named(path: str, value: Any, named: str) -> None:
    refused(changed(path, value), named)


SLICE = {
    "share": 0.02, "decision": "review", "amount": "amount", "maximum_amount": 200,
    "maximum_sum": 2000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"share": 0.6}, "exploration.share"),
        ({"share": 0}, "exploration.share"),
        ({"decision": "decline"}, "exploration.decision"),
        ({"amount": "price"}, "exploration.amount is 'price'; wanted: a request field"),
        ({"amount": "event_time"}, "exploration.amount is 'event_time'"),
        ({"maximum_amount": NAN}, "exploration.maximum_amount"),
        ({"maximum_sum": 100}, "exploration.maximum_sum is 100.0; wanted: maximum_amount (200)"),
        ({"hours": 0}, "exploration.hours"),
        ({"colour": 1}, "exploration.colour is an unknown key"),
    ],
)
def test_a_slice_that_cannot_be_is_named(changes: dict[str, Any], named: str) -> None:
    assert parse(changed("exploration", SLICE), "model.yaml").exploration is not None
    refused(changed("exploration", SLICE | changes), named)


SEGMENTS = {
    "stop": {"alerts": 0.5, "disagreement": 0.3},
    "tolerance": {"alerts": 1.0, "disagreement": 0.5},
    "groups": [
        {"name": "large", "input": "amount", "at_least": 500},
        {"name": "weekend", "input": "weekend", "values": [1]},
        {"name": "one_terminal", "field": "terminal_id", "values": [7], "required": False},
    ],
}


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("tolerance.alerts", 0.4, "rollout.segments.tolerance.alerts is 0.4; wanted: "
         "rollout.segments.stop.alerts (0.5) or more"),
        ("groups", [], "rollout.segments.groups"),
        ("groups.1.name", "large", "names that differ"),
        ("groups.0.name", "no name", "rollout.segments.groups.0.name"),
        ("groups.0.input", "price", "rollout.segments.groups.0.input is 'price'"),
        ("groups.0.field", "amount", "input or field, one of the two"),
        ("groups.2.field", "shop", "rollout.segments.groups.2.field is 'shop'"),
        ("groups.2.field", "customer_id", "not pseudonymous"),
        ("groups.0.below", 500, "groups.0.below is 500.0; wanted: more than at_least"),
        ("groups.0.values", [1], "or else values"),
        ("groups.1.values", [], "or else values"),
        ("groups.1.values", ["yes"], "groups.1.values is ('yes',); wanted: numbers"),
        ("groups.1.colour", 1, "groups.1.colour is an unknown key"),
    ],
)  # fmt: skip
def test_a_segment_that_cannot_be_is_named(path: str, value: Any, named: str) -> None:
    document = yaml.safe_load(changed("rollout.segments", SEGMENTS))
    segments = parse(yaml.safe_dump(document), "model.yaml").rollout.segments
    assert segments is not None
    assert [segment.required for segment in segments.groups] == [True, True, False]
    *parents, last = path.split(".")
    part = document["rollout"]["segments"]
    for name in parents:
        part = part[int(name) if name.isdigit() else name]
    part[last] = value
    refused(yaml.safe_dump(document), named)


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ({"values": ["web"]}, None),
        ({"values": ["WEB"]}, "groups.0.values is ('WEB',); wanted: of web, shop"),
        ({"values": [1]}, "groups.0.values is (1.0,); wanted: texts"),
        ({"at_least": 1}, "groups.0.values is (); wanted: texts"),
    ],
)
def test_a_segment_that_no_request_can_lie_in_is_named(
    held: dict[str, Any], named: str | None
) -> None:
    """A required one would be waited for until the deadline."""
    document = yaml.safe_load(changed("rollout.segments", SEGMENTS))
    document["request"]["channel"] = {"type": "string", "values": ["web", "shop"]}
    document["rollout"]["segments"]["groups"] = [{"name": "web", "field": "channel", **held}]
    text = yaml.safe_dump(document)
    if named is None:
        parse(text, "model.yaml")
    else:
        refused(text, named)


HELD_OUT = {
    "average_precision_drop": 0.1,
    "groups": [
        {"name": "large", "input": "amount", "at_least": 500},
        {"name": "small", "field": "amount", "below": 20, "required": False},
    ],
}


@pytest.mark.parametrize(
    ("group", "named"),
    [
        ({"field": "terminal_id"}, "gates.segments.groups.0.field is 'terminal_id'; wanted: a "
         "field that an input reads as it is, or a protected one: amount"),
        ({"field": "shop"}, "gates.segments.groups.0.field is 'shop'"),
        ({"input": "price"}, "gates.segments.groups.0.input is 'price'"),
        ({"input": "amount", "field": "amount"}, "input or field, one of the two"),
        ({"input": "amount", "values": [1]}, "or else values"),
        ({"name": "small", "input": "amount"}, "names that differ"),
        ({"input": "amount", "weight": 1}, "groups.0.weight is an unknown key"),
    ],
)  # fmt: skip
def test_a_segment_that_no_held_out_row_tells_is_named(group: dict[str, Any], named: str) -> None:
    read = parse(changed("gates.segments", HELD_OUT), "model.yaml").gates.segments
    assert read is not None
    assert [segment.required for segment in read.groups] == [True, False]
    segment = {"name": "large", "at_least": 500, **group}
    groups = [segment, HELD_OUT["groups"][1]]  # type: ignore[index]
    refused(changed("gates.segments", HELD_OUT | {"groups": groups}), named)


@pytest.mark.parametrize(
    ("hides", "named"),
    [
        (["decline", "review"], "exploration.decision is 'review'"),
        ([], "decision.hides_outcome is ()"),
        (["decline", "decline"], "decision.hides_outcome is ('decline', 'decline')"),
        (["refuse"], "decision.hides_outcome is ('refuse',)"),
    ],
)
def test_what_is_explored_is_what_hides_an_outcome(hides: list[str], named: str) -> None:
    document = yaml.safe_load(changed("exploration", SLICE))
    document["decision"]["hides_outcome"] = hides
    refused(yaml.safe_dump(document), named)


def test_an_amount_may_not_be_negative_as_losses_add_up() -> None:
    document = yaml.safe_load(changed("exploration", SLICE))
    del document["request"]["amount"]["minimum"]
    refused(yaml.safe_dump(document), "exploration.amount", "request.amount.minimum")


def test_all_that_is_wrong_is_told_at_once_with_its_line() -> None:
    text = TEXT
    for before, after in (
        ("tier: 1", "tier: 9"),
        ("kind: hour_of_day", "kind: hour"),
        ("  approval: required\n", ""),
        ("{percent: 5,", "{percnt: 5,"),
        ("psi: 0.2", "psi: fast"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, after)
    with pytest.raises(DocumentInvalid) as caught:
        parse(text, "model.yaml")

    def line(words: str) -> int:
        return 1 + next(n for n, found in enumerate(text.splitlines()) if words in found)

    assert str(caught.value).splitlines() == [
        "model.yaml: 6 things are wrong:",
        f"  line {line('tier: 9')}: tier is 9; wanted: one of 1, 2, 3",
        f"  line {line('kind: hour}')}: inputs.1.kind is 'hour'; wanted: one of field, category,"
        " text, vector, hour_of_day, day_of_week, is_weekend, is_night, ratio, view, window",
        f"  line {line('rollout:')}: rollout.approval is missing; wanted: one of required, none",
        f"  line {line('percnt')}: rollout.canary.0.percnt is an unknown key; wanted: one of"
        " percent, minimum_units, deadline_h, tolerance, minimum_h; the nearest is percent",
        f"  line {line('percnt')}: rollout.canary.0.percent is missing; wanted: a number",
        f"  line {line('psi: fast')}: drift.psi is 'fast'; wanted: a number, not a text",
    ]


def test_all_keys_that_contradict_others_are_told_at_once() -> None:
    document = yaml.safe_load(TEXT)
    document["latency_slo_ms"] = 51
    document["decision"]["thresholds"]["shares"]["decline"] = 0.9
    document["breaker"]["minimum_calls"] = 101
    with pytest.raises(DocumentInvalid) as caught:
        parse(yaml.safe_dump(document, sort_keys=False), "model.yaml")
    assert [finding.key for finding in caught.value.findings] == [
        "latency_slo_ms",
        "decision.limit.shares.decline",
        "decision.limit.alert_share",
        "breaker.minimum_calls",
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["tier", "rollout", "canary", "x"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    ),
    st.sampled_from(list(yaml.safe_load(TEXT))),
)
def test_something_is_found_wherever_the_types_refuse_and_nothing_where_they_do_not(
    value: Any, key: str
) -> None:
    document = yaml.safe_load(TEXT) | {key: value}
    try:
        msgspec.convert(document, ModelDefinition)
    except msgspec.ValidationError:
        assert list(of_shape(document, ModelDefinition))
    else:
        assert list(of_shape(document, ModelDefinition)) == []


@pytest.mark.parametrize(
    ("line", "again", "key"),
    [
        ("tier: 1", "tier: 1\ntier: 2", "tier"),
        ("  psi: 0.2", "  psi: 0.2\n  psi: 5", "psi"),
        ("  - {percent: 5, ", "  - {percent: 5, percent: 60, ", "percent"),
    ],
)
def test_a_key_that_stands_twice_is_named_and_neither_value_is_taken(
    line: str, again: str, key: str
) -> None:
    assert TEXT.count(line) == 1
    before = TEXT[: TEXT.index(line)].count("\n") + again.count("\n")
    number = before + 1
    refused(TEXT.replace(line, again), f": line {number}: the key {key} stands there twice")


@pytest.mark.parametrize("text", ["", "just words", "a: [", "- 1\n- 2"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize(
    ("path", "value", "takes"),
    [("async.enabled", True, True), ("async.enabled", False, False), ("async", None, False)],
    ids=["switched on", "switched off", "left out"],
)
def test_requests_for_later_are_taken_where_model_yaml_says_so(
    path: str, value: Any, takes: bool
) -> None:
    assert parse(changed(path, value), "model.yaml").takes_async is takes


@pytest.mark.parametrize("name", ["request_id", "label", "decision", "propensity", "explored"])
def test_a_request_field_may_not_have_the_name_of_a_column_of_the_platforms(name: str) -> None:
    document = yaml.safe_load(TEXT)
    document["request"][name] = {"type": "float64"}
    refused(yaml.safe_dump(document), "request", name, "another name")


def test_payloads_are_not_declared_to_go_before_the_platform_has_read_them() -> None:
    """54 days: 37 of steps, 7 for approval, 7 until confirmed, 3 until labels are mature."""
    text = TEXT + "\nretention: {payload_days: 4}\n"
    line = text.splitlines().index("retention: {payload_days: 4}") + 1
    why = "54 or more, as long as the platform itself reads payloads: a rollout that takes"
    refused(text, f"line {line}: retention.payload_days is 4; wanted: {why}")
    refused(changed("retention", {"payload_days": 53}), "retention.payload_days is 53")
    assert load_definition("fraud").retention is None
    kept = parse(changed("retention", {"payload_days": 54}), "model.yaml").retention
    assert kept is not None
    assert kept.payload_days == 54


@pytest.mark.parametrize(
    ("path", "value", "least", "why"),
    [
        ("training.window_days", 90, 94, "label.maturity_days and training.window_days"),
        ("label.review", {"days": 77}, 77, "label.review.days"),
        ("idempotency_keep_h", 24 * 80 + 1, 81, "idempotency_keep_h"),
        ("drift.windows", 200, 200, "drift.windows"),
    ],
)
def test_the_longest_need_says_for_what(path: str, value: Any, least: int, why: str) -> None:
    document = yaml.safe_load(changed(path, value)) | {"retention": {"payload_days": least - 1}}
    wanted = f"wanted: {least} or more, as long as the platform itself reads payloads: {why}"
    refused(yaml.safe_dump(document), wanted)
    document["retention"] = {"payload_days": least}
    parse(yaml.safe_dump(document), "model.yaml")
