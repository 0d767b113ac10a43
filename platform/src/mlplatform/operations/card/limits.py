"""Limits of a card: what was not shown of a version and what can't be known, stated explicitly."""

from __future__ import annotations

from collections.abc import Iterator

from mlplatform.learning.registry.versions import TRAINED_HERE
from mlplatform.learning.validation import report
from mlplatform.model.definition import ModelDefinition
from mlplatform.operations.card.card import Card, Rollout, TrafficGate
from mlplatform.operations.card.held_out import days_for_gates
from mlplatform.operations.card.tables import analysis_text
from mlplatform.rollouts.passes.summary import title
from mlplatform.rollouts.verdicts.outcomes import ACCURACY, ERROR
from mlplatform.runtime.units import DAY_MS

CLOSED = "closed"
ENOUGH_DAYS = 7
"""Days for the gates, below which a card says that they are few: a week has a rhythm."""


def limits(card: Card, definition: ModelDefinition) -> tuple[str, ...]:
    """Sentences about everything that the rest of a card does not show.

    Args:
        card: the card, whose own `limits` are not used.
    """
    return (
        *_fit_limits(card),
        *_of_validation(card),
        *_of_outcomes(card),
        *_of_groups(card, definition),
        *_of_traffic(card),
        *_of_approvals(card),
        *_of_matured(card),
        *_of_incidents(card),
        *_of_reasons(card),
    )


def _fit_limits(card: Card) -> Iterator[str]:
    identity = card.identity
    if identity.origin is None:
        yield (
            "What the model itself was fitted to is not recorded here: its bundle says where it is"
            " from."
        )
    elif identity.origin != TRAINED_HERE:
        yield (
            "What the model itself was fitted to is not recorded: it was brought from outside. The"
            " data below set its calibration and thresholds. Whether it was fitted to the days that"
            " the gates judged it by is not known."
        )
    if identity.is_of_present_folder is False:
        yield (
            "The model's folder has changed since this version was fitted. Purpose, owner, planned"
            " shares and policies are those of today."
        )
    elif identity.is_of_present_folder is None:
        yield (
            "Nothing says whether the model's folder is as it was when this version was made."
            " Purpose, owner, planned shares and policies are those of today."
        )
    if card.data.rows is None:
        yield (
            "The version's bundle is not on this machine, so thresholds, the split of its data,"
            " usual values and the method of its reasons are not read here."
        )
    what = "It has" if identity.origin == TRAINED_HERE else "Its calibration and thresholds have"
    yield f"{what} learned from no request after the end of its data."


def _of_validation(card: Card) -> Iterator[str]:
    found = card.validation
    if not found.gates:
        yield "No gate report is recorded: nothing says how it did on held-out requests."
        return
    if found.champion is None:
        yield (
            "It was validated without a champion to compare with: nothing on record says that it is"
            " better than another model, or than none."
        )
    yield from _of_few_days(card)
    for gate in found.gates:
        if gate.verdict != "passed":
            yield f"Not shown before traffic ({gate.name}): {gate.reason}."
    if all(gate.low is None for gate in found.gates):
        yield "No measure on held-out requests has an interval on record."


def _of_few_days(card: Card) -> Iterator[str]:
    from_ms = card.data.gates_from_ms
    judged = [gate for gate in card.validation.gates if gate.name == "calibration"]
    if card.deciding.task != "binary" or from_ms is None or not judged:
        return
    days = (card.data.to_ms - from_ms) / DAY_MS
    if days < ENOUGH_DAYS:
        yield (
            f"Calibration was judged on {days_for_gates(card.data)} alone, less than a week:"
            f" {judged[0].reason}."
        )


def _of_outcomes(card: Card) -> Iterator[str]:
    labels = card.labels
    if not labels.hides:
        return
    hiding = " or ".join(labels.hides)
    asked = any(o.is_reviewed for o in card.deciding.outcomes if o.name in labels.hides)
    review = ", except where a person's review labels it" if asked else ""
    if labels.exploration_share is None:
        yield (
            f"The outcome of a request can't become known after {hiding}{review}. model.yaml lets"
            " none of these requests through to learn of them, so how many were stopped wrongly"
            " can't be known."
        )
    else:
        yield (
            f"The outcome of a request can't become known after {hiding}{review}. What is known of"
            " such requests follows from the share that is let through."
        )
    if labels.treated is None:
        yield "What was done with hidden outcomes in its training set is not recorded."


def _of_groups(card: Card, definition: ModelDefinition) -> Iterator[str]:
    policy = definition.rollout.segments
    judged = sorted({s for gate in _all_gates(card) if (s := gate.name.partition(" of ")[2])})
    watched = [segment.name for segment in definition.drift.segments]
    if policy is None and not judged:
        yield "No segment of the requests was judged by itself in traffic."
    elif not judged:
        names = ", ".join(group.name for group in policy.groups) if policy else ""
        yield f"No verdict is recorded on the segments that model.yaml declares ({names})."
    fairness = card.validation.fairness
    attributes = () if fairness is None else fairness.attributes
    measured = card.validation.group_measures
    by_error = () if measured is None else measured.attributes
    compared = [found.attribute for found in attributes if len(found.groups) > 1]
    compared += [found.attribute for found in by_error if len(found.groups) > 1]
    if lacking := [name for name in definition.protected if name not in compared]:
        yield f"No groups were compared by what model.yaml protects: {', '.join(lacking)}."
    for found in attributes:
        few = [g.group for g in found.groups if (r := g.adverse_share_ratio) and r.low is None]
        if few:
            yield (
                f"There were too few requests of {', '.join(few)} (by {found.attribute}) to"
                " compare their adverse outcomes with those of others."
            )
    for of in by_error:
        few = [g.group for g in of.groups if any(r.low is None for r in g.compared.values())]
        if few:
            yield (
                f"There were too few requests of {', '.join(few)} (by {of.attribute}) to"
                " compare their errors with those of others."
            )
    named = ", ".join(dict.fromkeys([*judged, *watched, *compared]))
    others = f"other than {named}" if named else "of any kind"
    yield f"How it treats groups of customers {others} is not recorded."


def _all_gates(card: Card) -> Iterator[TrafficGate]:
    for rollout in card.rollouts:
        for step in rollout.steps:
            yield from step.gates


def _of_traffic(card: Card) -> Iterator[str]:
    if not card.rollouts:
        yield "It was never rolled out: how it does on live traffic is not known."
    for rollout in card.rollouts:
        yield from _of_rollout(rollout)


def _of_rollout(rollout: Rollout) -> Iterator[str]:
    newest = {gate.name: gate for step in rollout.steps for gate in step.gates}
    if not newest and rollout.analysis is None:
        yield f"{rollout.id}: no gate has judged it in traffic."
    elif not newest and rollout.analysis is not None:
        yield (
            f"{rollout.id}: none of its steps has been judged to its end; the newest interim"
            f" analysis was {analysis_text(rollout.analysis)}."
        )
    for gate in newest.values():
        if gate.verdict != "HEALTHY":
            what = "a harm is proven" if gate.verdict == "UNHEALTHY" else "not shown"
            yield f"{rollout.id}, {title(gate.name)}: {what}. {gate.headline}"
    if rollout.first:
        yield f"{rollout.id}: there was no champion, so no gate compared it with one."
    if rollout.emergency:
        yield f"{rollout.id}: promoted in an emergency, before shadow and canary could show harm."
    if rollout.planned is None:
        yield f"{rollout.id}: whether its steps could show what they ask for is not recorded."
    elif rollout.planned:
        yield f"{rollout.id}: the plan said: {rollout.planned}."
    if rollout.phase == "promoted":
        yield f"{rollout.id}: its promotion is provisional; labels may still take it back."


def _of_approvals(card: Card) -> Iterator[str]:
    answered = {approval.rollout for approval in card.approvals}
    for rollout in card.rollouts:
        if rollout.id not in answered:
            asked = {
                "required": "although one is required",
                "none": "and model.yaml asked for none",
            }
            requirement = asked.get(rollout.approval or "", "nor whether one was required")
            yield f"{rollout.id}: no approval is recorded, {requirement}."
    for approval in card.approvals:
        if approval.proven_by is None:
            yield (
                f"{approval.rollout}: how {approval.approver} was known to be that person is not"
                " recorded."
            )


def _of_matured(card: Card) -> Iterator[str]:
    matured = card.matured
    promoted = any(rollout.promoted_ms is not None for rollout in card.rollouts)
    if matured is None:
        if promoted:
            yield "No drift check has kept what matured labels say of it as champion."
        else:
            yield "It was never champion: no outcome of its own decisions is known."
    elif not matured.stretches:
        yield (
            "No day on which it was champion has all labels yet, so the outcomes of its decisions"
            " are not known."
        )
    else:
        hidden = sum(stretch.hidden for stretch in matured.stretches)
        if hidden:
            yield (
                f"{hidden:,} requests that were stopped while it was champion have no known"
                " outcome; recall and precision count the others."
            )
        yield from (f"Matured days: {gap}." for gap in matured.gaps)
    are_judged = any(gate.name in (ACCURACY, ERROR) for gate in _all_gates(card))
    if card.pairs is None and not are_judged:
        yield "No label was judged of a request that both this version and its champion scored."
    elif card.pairs is not None and card.pairs.hidden:
        yield (
            f"{card.pairs.rollout}: {card.pairs.hidden:,} requests that both versions scored were"
            " stopped, and have no known outcome."
        )
    if card.labels.come_share is None:
        cause = "" if are_judged else ": no gate on labels has spoken"
        yield f"How fast its labels come in traffic was not judged{cause}.{_of_maturity(card)}"
    is_unknown = card.deciding.task != "binary"
    absent = "counts as unknown" if is_unknown else f"counts as not {card.labels.name}"
    yield (
        f"A request without a label {absent} after {card.labels.maturity_days} days: a label that"
        " comes later is not in these figures."
    )


def _of_maturity(card: Card) -> str:
    verdicts = {gate.name: gate.verdict for gate in card.validation.gates}
    if verdicts.get("label_maturity") != "passed":
        return ""
    return (
        f" The gate {report.TITLES['label_maturity']} says only that labels came until the end of"
        " its data."
    )


def _of_incidents(card: Card) -> Iterator[str]:
    for incident in card.incidents:
        if incident.state != CLOSED:
            yield f"Incident {incident.id} ({incident.kind}) is {incident.state}: {incident.note}."


def _of_reasons(card: Card) -> Iterator[str]:
    found, word = card.explanations, card.deciding.score_word
    if found is None:
        yield "How its reasons are found is not read here."
    elif found.method == "reference_values":
        yield (
            f"Its reasons do not add up to the {word}: each input alone is put at its usual value,"
            f" and what two inputs do together is not shown{_because(found.why)}."
        )
    else:
        yield f"Its reasons say what moved the {word}, not what caused the outcome."


def _because(why: str) -> str:
    return f" ({why})" if why else ""
