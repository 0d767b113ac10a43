"""A table of rules: the fallback that decides about a request when no model answers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Literal

import msgspec

from mlplatform.model.policies.decision_scale import Decision, DecisionScale
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable, InputInvalid
from mlplatform.runtime.text import cleaned, shown

WANTED: Final = "a list of rules"

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
    inputs: Collection[str],
    decisions: Collection[str],
    protected: Collection[str] = (),
) -> tuple[Rule, ...]:
    """The rules in a rules.yaml.

    Args:
        decisions: the outcomes of the model.
        protected: request fields that no rule may read.

    Raises:
        ConfigInvalid: a key, operator, input or outcome is unknown, a value is missing, or a code
            is used twice.
    """
    from mlplatform.model import document  # a predictor does without PyYAML

    try:
        rules = msgspec.convert(document.read(text, source, WANTED), tuple[Rule, ...])
    except msgspec.ValidationError as error:
        raise ConfigUnusable(source, str(error), WANTED) from error
    codes = [rule.code for rule in rules]
    if len(set(codes)) != len(codes):
        raise ConfigInvalid(f"{source}: code", codes, "codes that differ")
    for rule in rules:
        _check(rule, source, inputs, protected)
        if rule.decision not in decisions:
            key, wanted = f"{source}: {shown(rule.code)}.decision", f"one of {', '.join(decisions)}"
            raise ConfigInvalid(key, rule.decision, wanted)
    return rules


def _check(rule: Rule, source: str, inputs: Collection[str], protected: Collection[str]) -> None:
    key = f"{source}: {shown(rule.code)}"
    check_text(f"{source}: code", rule.code)
    check_text(f"{key}.text", rule.text)
    if not rule.when:
        raise ConfigInvalid(f"{key}.when", [], "at least one condition")
    for condition in rule.when:
        if condition.input not in inputs:
            wanted = "an input of the model that is a number"
            if condition.input in protected:
                wanted += "; nothing decides by what model.yaml calls `protected`"
            raise ConfigInvalid(f"{key}.when.input", condition.input, wanted)
        if (condition.value is None) != (condition.op == "missing"):
            wanted = "no value with 'missing', a number with every other operator"
            raise ConfigInvalid(f"{key}.when.value", condition.value, wanted)


def check_text(key: str, text: str) -> None:
    """Check that a text for customers and analysts is printable, and in the form in which it is
    kept.

    Raises:
        ConfigInvalid: the text is not; the message names the wrong character, or gives the form in
            which the text is kept.
    """
    try:
        kept = cleaned(key, text)
    except InputInvalid as error:
        wanted = "a text that people can read, each word of it in one script"
        raise ConfigUnusable(key, error.problem, wanted) from error
    if kept != text:
        raise ConfigInvalid(
            key, shown(text), f"{shown(kept)!r}: normalised (NFKC), no spaces around"
        )


_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}
