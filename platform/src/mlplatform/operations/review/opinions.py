"""What analysts said of one decision, and whether that makes a label: pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlplatform.runtime.errors import InputInvalid, Refused

REVIEW: Final = "review"
"""The key of a label's payload under which it stands what an analyst said."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one analyst says of a decision.

    Args:
        outcome: 1 is what the model looks for, 0 is not.
        note: why, in the analyst's words; may be empty.
    """

    analyst: str
    outcome: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Consensus:
    """It becomes the decision's label.

    Args:
        agreed: names of the others who said the same before, in order.
    """

    agreed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Open:
    """It is kept, and becomes a label once another person says the same.

    Args:
        differs: somebody has said the opposite before.
    """

    differs: bool


def weigh(said: Sequence[Opinion], now: Opinion, *, four_eyes: bool) -> Consensus | Open:
    """What comes of an opinion after those that are on record; of each person the last one counts.

    Args:
        said: the oldest first.
        four_eyes: a label takes two people who say the same.

    Raises:
        Refused: this person has said the same already, and nobody confirms their own word.
    """
    if not four_eyes:
        return Consensus(())
    last = {opinion.analyst: opinion for opinion in said}
    mine = last.pop(now.analyst, None)
    agreed = tuple(sorted(o.analyst for o in last.values() if o.outcome == now.outcome))
    if agreed:
        return Consensus(agreed)
    if mine is not None and mine.outcome == now.outcome:
        raise Refused(f"{now.analyst} has said so already: another person has to confirm it")
    return Open(differs=bool(last))


def disputed(said: Sequence[Opinion]) -> bool:
    """Whether people contradict each other, by the last word of each."""
    return len({o.outcome for o in {o.analyst: o for o in said}.values()}) > 1


def payload(now: Opinion, agreed: Sequence[str] = ()) -> dict[str, Any]:
    """What the record of an opinion, or of the label that it makes, holds of it."""
    told: dict[str, Any] = {"outcome": now.outcome}
    if now.note:
        told["note"] = now.note
    if agreed:
        told["agreed"] = list(agreed)
    return {REVIEW: told}


def opinion(held: Mapping[str, Any]) -> Opinion | None:
    """What the payload of a label's record says; None where no analyst said it.

    Args:
        held: with the name of its client.
    """
    told = held.get(REVIEW)
    if not isinstance(told, Mapping) or told.get("outcome") not in (0, 1):
        return None
    analyst, note = held.get("client"), told.get("note", "")
    return Opinion(str(analyst), int(told["outcome"]), str(note))


def words(label: str) -> dict[str, int]:
    """What people say of an outcome, by the name of the model's label: `NAME`, `not-NAME`."""
    return {label: 1, f"not-{label}": 0}


def says(outcome: int, label: str) -> str:
    """An outcome as a person reads it."""
    name = label.replace("_", " ")
    return name if outcome else f"not {name}"


def outcome_of(text: str, label: str) -> int:
    """The outcome that a person names: by its word, or as the label is stored, 1 or 0.

    Raises:
        InputInvalid: it is neither.
    """
    known = {**words(label), "1": 1, "0": 0}
    by_word = {word.casefold(): outcome for word, outcome in known.items()}
    found = by_word.get(text.strip().casefold())
    if found is None:
        wanted = ", ".join(known)
        raise InputInvalid("the outcome", None, f"{text[:40]!a} is none; wanted: {wanted}")
    return found


@dataclass(frozen=True, slots=True)
class OnRecord:
    """A decision that can be looked at, and what was said of it so far, the oldest first."""

    decision_id: str
    model: str
    decision: str
    said: tuple[Opinion, ...]


def on_record(
    decision_id: str, model: str, records: Iterable[Mapping[str, Any]], reviewed: Sequence[str]
) -> OnRecord:
    """What the log's records of a decision come to.

    Args:
        records: with every column, their payload parsed, in any order.
        reviewed: the outcomes that are looked at.

    Raises:
        Refused: it has a label, was taken back, or is none that people look at.
    """
    own = [r for r in records if r["model"] == model and r["decision_id"] == decision_id]
    decided = [r["decision"] for r in own if r["kind"] == "decision"]
    labels = sorted(
        (r for r in own if r["kind"] == "label"),
        key=lambda r: (r["event_ms"], r["recorded_ms"], r["seq"] or 0),
    )
    if not decided:
        raise Refused(f"no decision {decision_id!a} of {model} is in the log")
    if any(r["kind"] == "void" for r in own):
        raise Refused(f"{decision_id} was taken back")
    if any(r["label"] is not None for r in labels):
        raise Refused(f"{decision_id} has a label by now: somebody has said how it turned out")
    if decided[0] not in reviewed:
        known = ", ".join(reviewed)
        raise Refused(f"{decision_id} is {decided[0] or 'no decision'}: people look at {known}")
    said = (opinion(r["payload"] or {}) for r in labels)
    return OnRecord(decision_id, model, decided[0], tuple(o for o in said if o is not None))
