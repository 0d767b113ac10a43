"""The causes of a decision, as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlplatform.model.policies.decision_scale import SCORE_WORDS
from mlplatform.observing.page.pictures.scales import finite

if TYPE_CHECKING:  # imports ONNX Runtime
    from mlplatform.scoring.request.explain import Explanation

METHODS: Final = {
    "tree_shap": "what each input adds to the margin, from which the {word} is computed (TreeSHAP)",
    "reference_values": "by how much the raw {word} would fall if the input had its ordinary value",
}


@dataclass(frozen=True, slots=True)
class CauseBar:
    """One input or rule.

    Args:
        value, ordinary: the input's value and its ordinary value, as text; empty for a rule.
        contribution: the contribution with its sign, as text.
        width: width of its bar, 0 to 100.
        then: the decision if the input had its ordinary value.
    """

    name: str
    code: str
    value: str
    ordinary: str
    contribution: str
    width: float
    then: str


@dataclass(frozen=True, slots=True)
class ExplanationDetail:
    """The explanation of one record.

    Args:
        word: the name of what the model gives: score, probability or number.
        same: whether deciding again gave the recorded result; None if nothing was decided.
        description: the picture in words.
        sum: the base, the bars, the rest and the margin in a sentence; empty if they don't add up
            by this method.
    """

    of: str
    key: str
    word: str
    method: str
    same: bool | None
    differences: tuple[str, ...]
    note: str
    bars: tuple[CauseBar, ...]
    description: str
    sum: str = ""


def explanation_details(
    found: Sequence[Explanation], word: str = SCORE_WORDS["binary"]
) -> list[ExplanationDetail]:
    """The explanations of a decision and its copy.

    Args:
        word: the name of what the model gives: score, probability or number.
    """
    return [_detail_of(number, one, word) for number, one in enumerate(found)]


def _detail_of(number: int, found: Explanation, word: str) -> ExplanationDetail:
    sizes = [abs(finite(getattr(c, "contribution", None)) or 0.0) for c in found.causes]
    most = max([*sizes, 1e-12])
    bars = tuple(
        CauseBar(
            name=cause.text,
            code=cause.code,
            value=_written(getattr(cause, "value", None)) if size else "",
            ordinary=_written(getattr(cause, "ordinary", None)) if size else "",
            contribution=f"{getattr(cause, 'contribution', 0.0):+.3f}" if size else "a rule",
            width=round(100 * size / most, 1),
            then=str(getattr(cause, "decision_then", "")),
        )
        for cause, size in zip(found.causes, sizes, strict=True)
    )
    return ExplanationDetail(
        of=f"{found.kind} by {found.answered_by or 'nobody'}"
        + ("" if found.version is None else f", version {found.version}"),
        key=f"why-{number}",
        word=word,
        method=METHODS.get(found.method or "", "").format(word=word),
        same=None if found.again is None else not found.differences,
        differences=found.differences,
        note="; ".join(filter(None, (found.note, _by_segment(found)))),
        bars=bars,
        description="; ".join(f"{bar.name} {bar.contribution}" for bar in bars)
        or "nothing raised it",
        sum=_sum(found),
    )


def _by_segment(found: Explanation) -> str:
    return f"decided by the thresholds of segment {found.segment}" if found.segment else ""


def _sum(found: Explanation) -> str:
    if found.base is None or found.rest is None:
        return ""
    shown = sum(getattr(cause, "contribution", 0.0) for cause in found.causes)
    return (
        f"The margin of an average request is {found.base:+.3f}. These inputs add {shown:+.3f} and"
        f" all others {found.rest:+.3f}, so the margin of this request is"
        f" {found.base + shown + found.rest:+.3f}."
    )


def _written(value: float | str | None) -> str:
    """A number in words, or the word of a category."""
    if isinstance(value, str):
        return value
    return "missing" if value is None else f"{value:.6g}"
