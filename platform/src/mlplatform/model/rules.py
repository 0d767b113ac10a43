"""The tables of a model's folder: rules, the fallback that decides about a request when no model
answers, and the words for inputs that drove a decision."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import msgspec

from mlplatform.model.findings import DocumentFinding, DocumentInvalid, Path, of_shape, valued
from mlplatform.model.policies.decision_scale import Decision, DecisionScale
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.text import cleaned, shown

WANTED: Final = "a list of rules"
REASONS_WANTED: Final = "input: {code, customer, analyst}"

Op = Literal[">", ">=", "<", "<=", "==", "missing"]


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One comparison of an input; `missing` has no value and holds for an absent input."""

    input: str
    op: Op
    value: float | None = None

    def holds(self, inputs: Mapping[str, float | None]) -> bool | None:
        """Whether the condition holds; None if its input is missing, so that nobody can say."""
        value = inputs.get(self.input)
        missing = value is None or math.isnan(value)
        if self.op == "missing":
            return missing
        if missing or value is None or self.value is None:
            return None
        return _COMPARE[self.op](value, self.value)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decision that follows when every condition holds, and the code that explains it."""

    code: str
    text: str
    when: tuple[Condition, ...]
    decision: Decision

    def holds(self, inputs: Mapping[str, float | None]) -> bool | None:
        """Whether all conditions hold; None if only a missing input leaves it open."""
        answers = [condition.holds(inputs) for condition in self.when]
        if False in answers:
            return False
        return None if None in answers else True


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The name of an input that drove a decision, for a customer and for an analyst."""

    code: str
    customer: str
    analyst: str


class RuleOutcome(msgspec.Struct, frozen=True):
    """The decision of the table, and the codes of the rules behind it, in table order."""

    decision: Decision
    codes: tuple[str, ...]


def evaluate(
    rules: Sequence[Rule], inputs: Mapping[str, float | None], scale: DecisionScale
) -> RuleOutcome | None:
    """The strongest decision among the rules that hold; None if the table abstains.

    The order of rules does not matter, so adding a rule can only make a decision stricter. A
    decision that is not an alert is given only if no missing input leaves a stricter rule open,
    because an unknown value is not harmless. An alert is given whatever else is missing.
    """
    verdicts = [(rule, rule.holds(inputs)) for rule in rules]
    holding = [rule for rule, verdict in verdicts if verdict]
    if not holding:
        return None
    strength = scale.names.index
    decision = max((rule.decision for rule in holding), key=strength)
    if decision not in scale.alerts and any(
        verdict is None and strength(rule.decision) > strength(decision)
        for rule, verdict in verdicts
    ):
        return None
    return RuleOutcome(decision, tuple(r.code for r in holding if r.decision == decision))


def parse_rules(
    text: str,
    *,
    source: str,
    inputs: Collection[str] | None,
    decisions: Collection[str] | None,
    protected: Collection[str] = (),
) -> tuple[Rule, ...]:
    """The rules in a rules.yaml.

    Args:
        inputs: the inputs of the model that are numbers; None if they are not known, so that no
            condition is checked for its input.
        decisions: the outcomes of the model; None if they are not known.
        protected: request fields that no rule may read.

    Raises:
        DocumentInvalid: keys, operators, inputs or outcomes are unknown, values are missing, or a
            code is used twice; the message names each with its line.
        ConfigInvalid: the text is not a YAML document that the platform reads.
    """
    from mlplatform.model import document  # a predictor does without PyYAML

    written = document.read(text, source, WANTED)
    if isinstance(written, list):
        wrong = [*of_shape(written, tuple[Rule, ...])]
        for number, rule in enumerate(written):
            if isinstance(rule, dict):
                wrong += _of_rule((str(number),), rule, inputs, decisions, protected)
        wrong += _repeated(written)
    else:
        wrong = [valued(("document",), written, WANTED)]
    if wrong:
        raise DocumentInvalid(source, wrong, document.lines(text))
    return msgspec.convert(written, tuple[Rule, ...])


def _of_rule(
    path: Path,
    rule: Mapping[str, Any],
    inputs: Collection[str] | None,
    decisions: Collection[str] | None,
    protected: Collection[str],
) -> Iterator[DocumentFinding]:
    """Findings where a rule does not fit the model; another form is found by `of_shape`."""
    for key in ("code", "text"):
        if isinstance(written := rule.get(key), str):
            yield from unclean_text((*path, key), written)
    decision = rule.get("decision")
    if isinstance(decision, str) and decisions is not None and decision not in decisions:
        yield valued((*path, "decision"), decision, f"one of {', '.join(decisions)}")
    conditions = rule.get("when")
    if conditions == []:
        yield valued((*path, "when"), [], "at least one condition")
    if isinstance(conditions, list):
        for number, condition in enumerate(conditions):
            if isinstance(condition, dict):
                place = (*path, "when", str(number))
                yield from _of_condition(place, condition, inputs, protected)


def _of_condition(
    path: Path,
    condition: Mapping[str, Any],
    inputs: Collection[str] | None,
    protected: Collection[str],
) -> Iterator[DocumentFinding]:
    name, op, value = (condition.get(key) for key in ("input", "op", "value"))
    if isinstance(name, str) and inputs is not None and name not in inputs:
        near = difflib.get_close_matches(name, inputs, n=1)
        wanted = f"an input of the model that is a number: {', '.join(inputs) or 'there is none'}"
        wanted += f"; the nearest is {near[0]}" if near else ""
        if name in protected:
            wanted += "; nothing decides by what model.yaml calls `protected`"
        yield valued((*path, "input"), name, wanted)
    if op in get_args(Op) and (value is None) != (op == "missing"):
        wanted = "no value with 'missing', a number with every other operator"
        yield valued((*path, "value"), value, wanted)


def _repeated(rules: Sequence[Any]) -> Iterator[DocumentFinding]:
    codes = [rule.get("code") if isinstance(rule, dict) else None for rule in rules]
    for number, code in enumerate(codes):
        if isinstance(code, str) and code in codes[:number]:
            yield valued((str(number), "code"), code, "a code that no rule above has: they differ")


def parse_reasons(text: str, *, source: str, inputs: Sequence[str] | None) -> Mapping[str, Reason]:
    """The reason codes in a reasons.yaml: one for every input; inputs may share one, whole.

    Args:
        inputs: the model's inputs; None if they are not known, so that no name is checked.

    Raises:
        DocumentInvalid: unknown keys, inputs without a code, codes with two wordings; the message
            names each with its line.
        ConfigInvalid: the text is not a YAML document that the platform reads.
    """
    from mlplatform.model import document  # a predictor does without PyYAML

    written = document.read(text, source, REASONS_WANTED)
    if not isinstance(written, dict):
        found = [valued(("document",), written, REASONS_WANTED)]
        raise DocumentInvalid(source, found, document.lines(text))
    wrong = [*of_shape(written, dict[str, Reason]), *_of_reasons(written, inputs)]
    if wrong:
        raise DocumentInvalid(source, wrong, document.lines(text))
    return msgspec.convert(written, dict[str, Reason])


def _of_reasons(
    written: Mapping[str, Any], inputs: Sequence[str] | None
) -> Iterator[DocumentFinding]:
    """Names that are no inputs, inputs without a reason, texts that are none, and codes that stand
    for two wordings."""
    wordings: dict[str, Any] = {}
    for name, reason in written.items():
        if inputs is not None and name not in inputs:
            near = difflib.get_close_matches(str(name), inputs, n=1)
            nearest = f"; the nearest is {near[0]}" if near else ""
            wanted = f"an input of the model: {', '.join(inputs)}{nearest}"
            yield DocumentFinding((str(name),), "is an unknown key", wanted)
        if not isinstance(reason, dict):
            continue
        for part in ("code", "customer", "analyst"):
            if isinstance(words := reason.get(part), str):
                yield from unclean_text((str(name), part), words)
        code = reason.get("code")
        if isinstance(code, str) and wordings.setdefault(code, reason) != reason:
            wanted = "a code of its own, or the wording that the code has above: they differ"
            yield valued((str(name), "code"), code, wanted)
    for name in (n for n in inputs or () if n not in written):
        yield DocumentFinding((name,), "is missing", REASONS_WANTED)


def unclean_text(path: Path, text: str) -> Iterator[DocumentFinding]:
    """A finding unless a text for customers and analysts is printable, and in the form in which it
    is kept."""
    try:
        kept = cleaned(path[-1], text)
    except InputInvalid as error:
        wanted = "a text that people can read, each word of it in one script"
        yield DocumentFinding(path, error.problem, wanted)
        return
    if kept != text:
        yield valued(path, shown(text), f"{shown(kept)!r}: normalised (NFKC), no spaces around")


_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}
