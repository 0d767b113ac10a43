"""Output of `mlplatform log explain`: why a decision came out as it did."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape

from mlplatform.commands.terminal.output import OUT, print_fields, print_table
from mlplatform.model.oip import reason_words
from mlplatform.model.policies.cut_offs import RowThresholds
from mlplatform.runtime.text import shown
from mlplatform.runtime.times import second_text

if TYPE_CHECKING:  # imports ONNX Runtime
    from mlplatform.scoring.rankings.again import RankingAgain
    from mlplatform.scoring.request.explain import Explanation, InputCause, Outcome, RuleCause

MOST_SHOWN: Final = 10
"""Most items of an order that are printed."""


def explain_again(rows: Sequence[Mapping[str, Any]], bundles: Path) -> list[Explanation]:
    """Explanations of the records of one decision.

    Args:
        rows: records of the decision as the log returns them, with parsed payloads; an erased
            payload is None.

    Raises:
        NotFound: the decision, its payload or its bundle is not here.
        ConfigInvalid: the model folder no longer has an input of the bundle.
        Corrupt: the payload or the bundle is damaged.
    """
    from mlplatform.scoring.request import explain  # imports ONNX Runtime

    return explain.explain_rows(rows, lambda *of: explain.load_decider(bundles, *of))


def order_again(ranking_id: str, rows: Sequence[Mapping[str, Any]], bundles: Path) -> RankingAgain:
    """The order of a request's items, computed again.

    Args:
        rows: decisions of the request's time, as of `explain_again`.

    Raises:
        NotFound: a bundle is not here.
        Corrupt: a payload or a bundle is damaged.
    """
    from mlplatform.scoring.rankings import again  # imports ONNX Runtime
    from mlplatform.scoring.request.explain import load_decider

    decider_of = functools.cache(lambda model, digest: load_decider(bundles, model, digest))
    return again.order_again(ranking_id, rows, decider_of)


def print_order(found: RankingAgain) -> None:
    """Print a request's order beside what was computed again."""
    order = ", ".join(found.items[:MOST_SHOWN]) + (", …" if len(found.items) > MOST_SHOWN else "")
    print_fields(
        {
            "ranking": f"{found.id}, by {found.ordered_by}",
            "order": order,
            "order equal": not found.differences,
        }
    )
    for difference in found.differences:
        OUT.print(f"[red]differs:[/] {escape(shown(difference))}", soft_wrap=True)


def print_explanations(explanations: Sequence[Explanation]) -> None:
    """Print each record beside what was computed again, then its reasons."""
    for explanation in explanations:
        print_fields({k: v for k, v in _head(explanation).items() if v is not None})
        for difference in explanation.differences:
            OUT.print(f"[red]differs:[/] {escape(shown(difference))}", soft_wrap=True)
        _print_causes(explanation.causes)


def _head(explanation: Explanation) -> dict[str, object]:
    by = f"by {explanation.answered_by or 'nobody'}"
    if explanation.version is not None:
        by += f", version {explanation.version}, bundle {(explanation.bundle or '')[:12]}"
    return {
        explanation.kind: f"{explanation.decision_id} of {explanation.model}",
        "event time": f"{second_text(explanation.event_ms)} UTC",
        "answered": by,
        "degraded": explanation.degraded_reason and reason_words(explanation.degraded_reason),
        "logged": _words(explanation.logged),
        "again": _words(explanation.again),
        "equal": None if explanation.again is None else not explanation.differences,
        "thresholds": _thresholds(explanation),
        "thresholds of": explanation.segment and f"segment {explanation.segment}",
        "reasons by": _method(explanation.method),
        "note": explanation.note,
    }


def _thresholds(explanation: Explanation) -> str | None:
    if explanation.thresholds is None:
        return None
    held_to = RowThresholds(explanation.thresholds, explanation.segment)
    return held_to.text(lambda begin: f"{begin:.6f}")


def _method(method: str | None) -> str | None:
    words = {
        "tree_shap": "TreeSHAP: contributions to the margin, before the link to the raw score",
        "reference_values": "reference values: by how much the raw score falls with the input at "
        "its usual value",
    }
    return None if method is None else words[method]


def _words(outcome: Outcome | None) -> str | None:
    if outcome is None:
        return None
    score = "" if outcome.score is None else f", score {outcome.score:.6f}"
    raw = "" if outcome.raw is None else f" (raw {outcome.raw:.6f})"
    return f"{outcome.decision}{score}{raw}"


def _print_causes(causes: Sequence[InputCause | RuleCause]) -> None:
    from mlplatform.scoring.request.explain import InputCause, RuleCause  # imports ONNX Runtime

    inputs = [c for c in causes if isinstance(c, InputCause)]
    rules = [c for c in causes if isinstance(c, RuleCause)]
    if inputs:
        columns = ("reason", "input", "value", "contribution", "ordinary", "score if ordinary",
                   "decision then")  # fmt: skip
        rows = [
            (c.code, c.text, _number(c.value), f"{c.contribution:+.4f}", _number(c.ordinary),
             f"{c.score_then:.6f}", c.decision_then)
            for c in inputs
        ]  # fmt: skip
        print_table(columns, rows, prose="input")
    if rules:
        rows_of_rules = [(c.code, _values(c.values), c.text) for c in rules]
        print_table(("reason", "values", "rule"), rows_of_rules, prose="rule")


def _values(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _number(value: float | str | None) -> str:
    if isinstance(value, str):
        return shown(value)
    return "missing" if value is None else f"{value:.6g}"
