"""Whether the keys of a model.yaml agree with each other: one table of rules for each part."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Final, NamedTuple

from mlplatform.model.definition import (
    CALL_ROWS,
    EVENT_TIME,
    REQUEST_UNIT,
    ClassesDefinition,
    ModelDefinition,
    RealDefinition,
    row_inputs,
    row_signature,
    word_inputs,
    word_problems,
)
from mlplatform.model.findings import DocumentFinding, valued, while_readable
from mlplatform.model.folds import history_days
from mlplatform.model.freeze_times import WANTED, LocalTime, is_before, is_zone, local_time
from mlplatform.model.inputs import fields_read, reference_rules
from mlplatform.model.policies.model_server import server_rules
from mlplatform.model.policies.ranking import ranking_rules
from mlplatform.model.policies.rollout import CanaryStep, RolloutPolicy, ShadowStep
from mlplatform.model.policies.search import search_rules
from mlplatform.model.policies.segments import MOST_GROUPS
from mlplatform.model.policies.threshold_rules import number_rules, threshold_rules
from mlplatform.model.policies.training import GpuPolicy
from mlplatform.model.policies.values import Rule
from mlplatform.model.segment_rules import segment_rules
from mlplatform.model.signature_checks import signature_problems, text_rules
from mlplatform.model.tensors.categories import vocabulary_problems
from mlplatform.model.vector_rules import vector_rules
from mlplatform.model.windows import declaration as windows
from mlplatform.runtime.units import DAY_H, DAY_MS, HOUR_S


class _Need(NamedTuple):
    """A use of payloads: the days of event time after a record in which its payload is read, and
    the purpose."""

    days: int
    why: str


_ALWAYS_DAYS: Final = 7
SLICE = "1, where it is a slice or a share of a GPU"
OF_EVERY_REQUEST = (
    *("request_id", "label", "label_time", "recorded_ms", "seq"),
    *("decision", "by_model", "propensity", "explored"),
)
"""Columns beside a request's fields in the offline table and its joins."""


def contradictions(model: ModelDefinition, *, is_whole: bool = True) -> Iterator[DocumentFinding]:
    """A finding for every rule that is broken, by its key.

    Args:
        is_whole: whether no value of the model is `WRONG`; rules that read one are left out.
    """
    for part in (
        _request,
        reference_rules,
        _categories,
        text_rules,
        vector_rules,
        _protected,
        _fairness,
        _decision,
        _limit,
        _learning,
        _review,
        _exploration,
        _ranking,
        _rollout,
        _retention,
        _serving,
        _scaling,
    ):
        yield from while_readable(_broken(part(model)), is_whole=is_whole)


def _broken(rules: Iterator[Rule]) -> Iterator[DocumentFinding]:
    for holds, key, value, wanted in rules:
        if not holds:
            yield valued(tuple(key.split(".")), value, wanted)


def _request(model: ModelDefinition) -> Iterator[Rule]:
    unit, names = model.assignment_unit, [i.name for i in model.inputs]
    is_unit = unit == REQUEST_UNIT or unit in model.request
    units = f"a request field ({', '.join(model.request)}) or {REQUEST_UNIT!r}"
    yield is_unit, "assignment_unit", unit, units
    for name in (EVENT_TIME, *OF_EVERY_REQUEST):
        free = name not in model.request
        yield free, "request", name, "another name: the platform keeps its own under this one"
    yield len(set(names)) == len(names), "inputs", names, "names that differ"
    in_time = 0 < model.latency_slo_ms <= model.deadline_ms
    wanted = "more than 0 and at most deadline_ms"
    yield in_time, "latency_slo_ms", model.latency_slo_ms, wanted
    for name, field in model.request.items():
        if field.minimum is not None and field.maximum is not None:
            ordered = field.minimum <= field.maximum
            yield ordered, f"request.{name}.minimum", field.minimum, "at most maximum"
        is_key = name in model.keys
        wanted = "false: every request has its entities, its pseudonyms and assignment_unit"
        yield not (field.optional and is_key), f"request.{name}.optional", True, wanted
        may = not (is_key and "" in (field.values or ()))
        yield may, f"request.{name}.values", field.values, "no empty text: it tells nobody apart"
    yield from windows.rules(model.windows, model.request)


def _categories(model: ModelDefinition) -> Iterator[Rule]:
    for name, field in model.request.items():
        key, is_text = f"request.{name}", field.type == "string"
        for part in ("max_length", "values"):
            value = getattr(field, part)
            yield is_text or value is None, f"{key}.{part}", value, "nothing: only texts have it"
        if field.values is not None:
            yield bool(field.values), f"{key}.values", field.values, "at least one text"
            words = {name: [word for word in field.values if word]}
            yield from _words(f"{key}.values", field.values, words)
            longest = max(map(len, field.values), default=0)
            wanted = f"{longest} or more, the length of the longest of values"
            fits = field.max_length is None or longest <= field.max_length
            yield fits, f"{key}.max_length", field.max_length, wanted
    categories = {*word_inputs(model.inputs)}
    for name, vocabulary in model.vocabularies.items():
        key, wanted = f"vocabularies.{name}", "words of an input of kind category or text"
        yield name in categories, key, vocabulary, wanted
        for _, problem in word_problems({name: vocabulary}, model.inputs):
            yield False, key, vocabulary, f"words that can be kept: {problem}"
    if (signature := model.signature) is not None:
        rows = row_inputs(model.inputs, model.request, signature)
        of_rows = row_signature(signature, model.inputs, model.request), rows
        for key, value, wanted in signature_problems(*of_rows, len(model.classes)):
            yield False, f"signature.{key}", value, wanted
        runtime, wanted = model.serving.runtime, "not triton, where there is a signature"
        yield runtime != "triton", "serving.runtime", runtime, wanted
    for number, segment in enumerate(model.drift.segments):
        key, wanted = f"drift.segments.{number}.input", "an input that is a number"
        yield segment.input not in categories, key, segment.input, wanted
    of_rollout = model.rollout.segments
    for number, group in enumerate(of_rollout.groups if of_rollout is not None else ()):
        key, wanted = f"rollout.segments.groups.{number}.input", "a number; a text by its `field`"
        yield group.input not in categories, key, group.input, wanted


def _protected(model: ModelDefinition) -> Iterator[Rule]:
    """Rules of protected attributes: each has groups, and nothing that decides reads it."""
    protected = model.protected
    yield len(set(protected)) == len(protected), "protected", protected, "names that differ"
    for number, name in enumerate(protected):
        key, field = f"protected.{number}", model.request.get(name)
        yield field is not None, key, name, f"a request field: one of {', '.join(model.request)}"
        if field is None:
            continue
        wanted = "a field of type string with `values`, its groups (of ages: 18-29, 30-44, …)"
        yield field.type == "string" and bool(field.values), key, name, wanted
        few = len(field.values or ()) <= MOST_GROUPS
        yield few, key, len(field.values or ()), f"a field with at most {MOST_GROUPS} `values`"
        is_key = field.entity is not None or field.pseudonymous or name == model.assignment_unit
        yield (
            not is_key,
            key,
            name,
            "a field that is not an entity, a pseudonym or assignment_unit",
        )
    wanted = "nothing that is `protected`: take it out here, or out of protected"
    for number, spec in enumerate(model.inputs):
        for name in fields_read(spec, protected):
            yield False, f"inputs.{number}.{'of' if name == spec.of else 'to'}", name, wanted
    yield from windows.protected_rules(model.windows, protected)
    shown = sorted(set(protected) & set(model.label.review.shows))
    yield not shown, "label.review.shows", shown, wanted


def _fairness(model: ModelDefinition) -> Iterator[Rule]:
    policy, names, key = model.gates.fairness, model.decision.outcomes, "gates.fairness"
    if policy is None:
        return
    wanted = f"a limit: {', '.join(policy.limit_keys)} or both"
    yield bool(policy.limits), key, [None for _ in policy.limit_keys], wanted
    yield bool(model.protected), key, "without protected", "`protected`, the fields with the groups"
    last = policy.adverse == names[len(names) - len(policy.adverse) :] != names
    wanted = f"the last of {', '.join(names)}, in this order, and not the first"
    yield not policy.adverse or last, f"{key}.adverse", policy.adverse, wanted
    for name, group in policy.reference.items():
        known = name in model.protected
        yield known, f"{key}.reference.{name}", group, f"of {', '.join(model.protected) or 'none'}"
        field = model.request.get(name)
        if known and field is not None and field.values:
            groups = [value for value in field.values if value]
            yield group in groups, f"{key}.reference.{name}", group, f"of {', '.join(groups)}"


def _words(key: str, value: object, words: Mapping[str, Sequence[str]]) -> Iterator[Rule]:
    for _, problem in vocabulary_problems(words):
        yield False, key, value, f"words that can be kept: {problem}"


def _decision(model: ModelDefinition) -> Iterator[Rule]:
    decision = model.decision
    names = decision.outcomes
    yield len(set(names)) == len(names), "decision.outcomes", names, "names that differ"
    named = {"hides_outcome": decision.hides_outcome, "safe": (decision.safe,)}
    if model.task == "classes":  # for other tasks the rule of the order covers alerts
        named["alerts"] = decision.alerts
    for key, some in named.items():
        known = set(some) <= set(names) and len(set(some)) == len(some)
        wanted = f"of decision.outcomes ({', '.join(names)}), each once"
        yield known, f"decision.{key}", getattr(decision, key), wanted
    yield from _BY_TASK[model.task](model)
    if model.task != "binary":
        runtime, wanted = model.serving.runtime, f"not triton, where task is {model.task}"
        yield runtime != "triton", "serving.runtime", runtime, wanted


def _two_outcomes(model: ModelDefinition) -> Iterator[Rule]:
    names, alerts = model.decision.outcomes, model.decision.alerts
    last = 0 < len(alerts) < len(names) and alerts == names[-len(alerts) :]
    wanted = f"the last of {', '.join(names)}, in this order, and not the first"
    yield last, "decision.alerts", alerts, wanted
    yield from threshold_rules(model.decision)


def _classes(model: ModelDefinition) -> Iterator[Rule]:
    assert isinstance(model, ClassesDefinition)
    decision, count = model.decision, len(model.classes)
    wanted = f"at most {count}, the number of classes"
    yield decision.top <= count, "decision.top", decision.top, wanted


def _number(model: ModelDefinition) -> Iterator[Rule]:
    assert isinstance(model, RealDefinition)
    yield from number_rules(model.decision)


_BY_TASK: Final[Mapping[str, Callable[[ModelDefinition], Iterator[Rule]]]] = {
    "binary": _two_outcomes,
    "classes": _classes,
    "real": _number,
}
"""Task of a model → further rules for its decisions."""


def _limit(model: ModelDefinition) -> Iterator[Rule]:
    decision, limit = model.decision, model.decision.limit
    if limit is None:
        return
    value, planned = limit.alert_share, decision.alert_share
    yield value > planned, "decision.limit.alert_share", value, f"more than planned, {planned:g}"
    for name, share in limit.shares.items():
        key = f"decision.limit.shares.{name}"
        wanted = f"a limit of an alert ({', '.join(decision.alerts)})"
        yield name in decision.alerts, key, share, wanted
        policy = decision.thresholds  # with segments, nobody plans an outcome's share of all
        planned = 0.0 if policy.segments else (policy.shares or {}).get(name, 0.0)
        yield share > planned, key, share, f"more than planned, {planned:g}"
        yield share <= value, key, share, "at most alert_share"


def _review(model: ModelDefinition) -> Iterator[Rule]:
    review, names = model.label.review, model.decision.outcomes
    known = set(review.outcomes) <= set(names) and len(set(review.outcomes)) == len(review.outcomes)
    wanted = f"of decision.outcomes ({', '.join(names)}), each once"
    yield known, "label.review.outcomes", review.outcomes, wanted
    may_show = [name for name, field in model.request.items() if not field.pseudonymous]
    shown = set(review.shows) <= set(may_show) and len(set(review.shows)) == len(review.shows)
    wanted = f"request fields that are not pseudonymous ({', '.join(may_show)}), each once"
    yield shown, "label.review.shows", review.shows, wanted


def _learning(model: ModelDefinition) -> Iterator[Rule]:
    training, gates = model.training, model.gates
    held_out = 2 <= training.holdout_days < training.window_days
    wanted = "2 or more (calibration and gates take half each) and less than window_days"
    yield held_out, "training.holdout_days", training.holdout_days, wanted
    fits = training.minimum_rows <= training.maximum_rows
    yield fits, "training.minimum_rows", training.minimum_rows, "at most maximum_rows"
    least, most = gates.alert_share_minimum, gates.alert_share_maximum
    yield least <= most, "gates.alert_share_minimum", least, "at most alert_share_maximum"
    yield _whole_or_one(training.gpu), "training.gpu.count", _count(training.gpu), SLICE
    if training.search is not None:
        days = training.window_days - training.holdout_days - model.label.maturity_days
        yield from search_rules(training.search, days=days, deadline_s=training.deadline_s)


def _exploration(model: ModelDefinition) -> Iterator[Rule]:
    hides, policy = model.decision.hides_outcome, model.exploration
    if policy is None:
        return
    wanted = "at least one decision: where none hides an outcome, there is nothing to let through"
    yield bool(hides), "decision.hides_outcome", hides, wanted
    open_ones = [name for name in model.decision.outcomes if name not in hides]
    wanted = f"a decision that hides no outcome: one of {', '.join(open_ones)}"
    yield policy.decision in open_ones, "exploration.decision", policy.decision, wanted
    field = model.request.get(policy.amount)
    numeric = field is not None and field.type in ("int64", "float64")
    yield numeric, "exploration.amount", policy.amount, "a request field of type int64 or float64"
    bounded = field is not None and field.minimum is not None and field.minimum >= 0
    wanted = f"a field with request.{policy.amount}.minimum of 0 or more: losses add up"
    yield bounded, "exploration.amount", policy.amount, wanted
    known = field is None or not field.optional
    wanted = f"a field without request.{policy.amount}.optional: each loss is known"
    yield known, "exploration.amount", policy.amount, wanted
    enough, key = policy.maximum_sum >= policy.maximum_amount, "exploration.maximum_sum"
    yield enough, key, policy.maximum_sum, f"maximum_amount ({policy.maximum_amount:g}) or more"


def _ranking(model: ModelDefinition) -> Iterator[Rule]:
    if (policy := model.ranking) is None:
        return
    refuses = model.when_unrecordable == "refuse"
    refused = (
        ("decision.hides_outcome", model.decision.hides_outcome, "the places say what was shown"),
        ("decision.limit", model.decision.limit, "it counts decisions about customers, not items"),
        ("exploration", model.exploration, "the places say what was shown"),
        ("windows", model.windows, "each item would count as a request of its own"),
        ("when_unrecordable", "" if refuses else model.when_unrecordable, "give `refuse`"),
    )
    request, unit = list(model.request), model.assignment_unit
    yield from ranking_rules(policy, request=request, unit=unit, refused=refused)


def _rollout(model: ModelDefinition) -> Iterator[Rule]:
    percents, drift = [s.percent for s in model.rollout.canary], model.drift
    wanted = "percents that rise, more than 0, at most 100"
    yield _rising(percents), "rollout.canary", percents, wanted
    yield from _tolerances(model.rollout)
    yield from _freezes(model.rollout)
    yield from segment_rules(model)
    unknown = sorted(set(drift.inputs) - {i.name for i in model.inputs})
    yield not unknown, "drift.inputs", unknown, _inputs_near(unknown, model)
    segments = [segment.name for segment in drift.segments]
    yield len(set(segments)) == len(segments), "drift.segments", segments, "names that differ"
    strange = sorted({s.input for s in drift.segments} - {i.name for i in model.inputs})
    yield not strange, "drift.segments", strange, _inputs_near(strange, model)
    few = 0 < drift.drifted_windows <= drift.windows
    yield few, "drift.drifted_windows", drift.drifted_windows, "1 to drift.windows"


def _retention(model: ModelDefinition) -> Iterator[Rule]:
    if (policy := model.retention) is None:
        return
    need, days = max(_needs(model)), policy.payload_days
    wanted = f"{need.days} or more, as long as the platform itself reads payloads: {need.why}"
    yield days >= need.days, "retention.payload_days", days, wanted


def _needs(model: ModelDefinition) -> Iterator[_Need]:
    rollout, drift, mature = model.rollout, model.drift, model.label.maturity_days
    why = "label.maturity_days and training.window_days (holdout_days are its last), and a day"
    if model.training.folds > 1:
        why += "; with training.folds, their days and label.maturity_days again"
    yield _Need(history_days(model), why)
    steps_h = rollout.shadow.deadline_h + math.fsum(step.deadline_h for step in rollout.canary)
    ramp_h = steps_h + rollout.approval_deadline_h
    if math.isfinite(ramp_h):  # another rule refuses infinities
        why = (
            "a rollout that takes every deadline_h of its steps and approval_deadline_h, then "
            "confirm_after_days, and label.maturity_days"
        )
        yield _Need(math.ceil(ramp_h / DAY_H) + rollout.confirm_after_days + mature, why)
    watched = math.ceil(drift.windows * drift.window_h / DAY_H)
    yield _Need(watched, "drift.windows of drift.window_h each")
    for window in model.windows:
        delay_ms = windows.span_ms(window.delay) if window.delay else 0
        covered_ms = window.length_ms + delay_ms + window.tile_ms
        yield _Need(math.ceil(covered_ms / DAY_MS), f"window {window.name}, its delay and a tile")
    yield _Need(math.ceil(model.idempotency_keep_h / DAY_H), "idempotency_keep_h")
    yield _Need(model.label.review.days, "label.review.days")
    if model.exploration is not None:
        yield _Need(math.ceil(model.exploration.hours / DAY_H), "exploration.hours")
    yield _Need(_ALWAYS_DAYS, "features are counted again after a week, and labels may be repeated")


def _tolerances(policy: RolloutPolicy) -> Iterator[Rule]:
    """Rules of steps: none tolerates proven harm, and none ends before its time."""
    deadlines_h = [policy.shadow.deadline_h, *(step.deadline_h for step in policy.canary)]
    longest_s = HOUR_S * max(deadlines_h)
    wanted = f"the longest deadline_h in seconds ({longest_s:g}) or more"
    key, value = "rollout.step_wall_deadline_s", policy.step_wall_deadline_s
    yield value >= longest_s or math.isinf(longest_s), key, value, wanted
    steps: dict[str, ShadowStep | CanaryStep] = {"rollout.shadow": policy.shadow} | {
        f"rollout.canary.{number}": step for number, step in enumerate(policy.canary)
    }
    for where, step in steps.items():
        least_h, tolerance, wanted = step.minimum_h, step.tolerance, f"at most {where}.deadline_h"
        yield least_h is None or least_h <= step.deadline_h, f"{where}.minimum_h", least_h, wanted
        key, limit = f"{where}.tolerance.failures", policy.failure_share_limit
        least = f"failure_share_limit ({limit:g}) or more"
        yield tolerance.failures >= limit, key, tolerance.failures, least
        for name in ("alerts", "disagreement", "latency_p50", "latency_p99"):
            value, limit = getattr(tolerance, name), getattr(policy.stop, name)
            key, least = f"{where}.tolerance.{name}", f"rollout.stop.{name} ({limit:g}) or more"
            yield value is None or value >= limit, key, value, least


def _freezes(policy: RolloutPolicy) -> Iterator[Rule]:
    if (freeze := policy.freeze) is None:
        return
    zone = freeze.time_zone
    yield is_zone(zone), "rollout.freeze.time_zone", zone, "a time zone: Europe/Berlin"
    for number, window in enumerate(freeze.windows):
        key = f"rollout.freeze.windows.{number}"
        start, end = _local_time(window.start), _local_time(window.end)
        yield start is not None, f"{key}.from", window.start, WANTED
        yield end is not None, f"{key}.to", window.end, WANTED
        if start is not None and end is not None:
            alike = isinstance(start.day, date) == isinstance(end.day, date)
            yield alike, f"{key}.to", window.end, "a date, as from is one, or else a weekday"
            yield is_before(start, end), f"{key}.to", window.end, "later than from"


def _local_time(written: str) -> LocalTime | None:
    try:
        return local_time(written)
    except ValueError:
        return None


def _serving(model: ModelDefinition) -> Iterator[Rule]:
    breaker, chain, gpu = model.breaker, model.chain, model.gpu
    yield gpu is None or model.accelerator != "cpu", "gpu", gpu, "nothing, where accelerator is cpu"
    yield _whole_or_one(gpu), "gpu.count", _count(gpu), SLICE
    few = breaker.minimum_calls <= breaker.window_calls
    yield few, "breaker.minimum_calls", breaker.minimum_calls, "at most window_calls"
    fits = chain.features_share + chain.reserve_share < 1
    wanted = "less than what reserve_share leaves"
    yield fits, "chain.features_share", chain.features_share, wanted
    yield from server_rules(model.serving, model.signature)
    if model.serving.runtime == "triton":
        rows, least = model.serving.batch_rows, max(CALL_ROWS, len(model.inputs))
        wanted = (
            f"{least} or more, where runtime is triton: a call holds so many rows, and Triton "
            "refuses a larger call"
        )
        yield rows >= least, "serving.batch_rows", rows, wanted


def _scaling(model: ModelDefinition) -> Iterator[Rule]:
    serving, scaling = model.serving, model.serving.scaling
    if scaling is None:
        return
    key, least, queued = "serving.scaling", scaling.minimum_replicas, scaling.queued_requests
    ordered = least <= scaling.maximum_replicas
    yield ordered, f"{key}.minimum_replicas", least, "at most maximum_replicas"
    wanted = "less than queue_requests, beyond which requests are refused"
    yield queued < serving.queue_requests, f"{key}.queued_requests", queued, wanted
    wanted = (
        f"nothing, where runtime is {serving.runtime}: it is read from the own predictor's metrics"
    )
    yield serving.runtime == "mlplatform", key, "what asks for pods", wanted


def _count(gpu: GpuPolicy | None) -> int | None:
    return None if gpu is None else gpu.count


def _whole_or_one(gpu: GpuPolicy | None) -> bool:
    return gpu is None or gpu.count == 1 or gpu.resource == "nvidia.com/gpu"


def _rising(percents: list[float]) -> bool:
    inside = all(0 < p <= 100 for p in percents)
    return bool(percents) and inside and percents == sorted(set(percents))


def _inputs_near(unknown: Sequence[str], model: ModelDefinition) -> str:
    """A sentence that asks for inputs, with the names nearest to the unknown ones."""
    names = [one.name for one in model.inputs]
    near = [difflib.get_close_matches(name, names, n=1) for name in unknown]
    found = ", ".join(dict.fromkeys(name for names in near for name in names))
    return "names of `inputs`" + (f"; the nearest is {found}" if found else "")
