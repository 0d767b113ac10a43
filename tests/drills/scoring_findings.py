"""What the requests of a drill and the records in the log say together."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, assert_never

import msgspec
from tests.drills.scoring_client import SentRequest

ALLOWANCE_MS = 20
"""What a client grants on top of the deadline, for its own delays and the way there and back."""
CLIENT_LATE_S = 0.01
BUSY_MACHINE = {"deadline", "stalled", "breaker_open"}
"""Reasons that any pause of the machine gives, whatever is drilled."""

STRAY_SHARE = 0.01
"""Of answers, that may be degraded while nothing is wrong but a pause of the machine."""

Shows = Literal["degraded", "features", "refused", "retried", "nothing"]
"""What must be seen of a fault; refusals are promised only where it says so."""


class Window(NamedTuple):
    """When the fault began and when its cause was gone, on the monotonic clock."""

    from_s: float
    to_s: float


class Finding(msgspec.Struct, kw_only=True):
    """The figures of one drill.

    Args:
        answers: decisions that were given.
        refused: requests whose last response was a refusal by problem details.
        unanswered: requests without any whole response, after one retry with the same key.
        late: first responses later than the deadline and the client's allowance; `late_share` of
            all; those whose request was due in the fault are `fault_late`. Each is counted once
            more: `client_late` where the client itself sent late, else `core_late` where a
            thread of client, gateway or predictor waited for a core at least as long as the
            answer was late, else `path_late`: nothing but the path explains it.
        degraded_share: of answers to requests that were due during the fault.
        recovery_s: from the end of the fault to the last request that was not answered, or was
            answered as degraded; null: it did not end.
        lost: answers whose decision is not in the log.
        doubled: keys with more than one decision in the log.
        broken: promises that do not hold.
    """

    answers: int
    refused: dict[str, int]
    unanswered: int
    late: int
    late_share: float
    fault_late: int
    client_late: int
    core_late: int
    path_late: int
    retried: int
    degraded_share_before: float
    degraded_share: float
    degraded_share_after: float
    degraded_reasons: dict[str, int]
    answered_by: dict[str, int]
    p50_ms: float
    p99_ms: float
    worst_ms: float
    recovery_s: float | None
    lost: int
    doubled: int
    verified: bool
    expected: str
    broken: list[str] = []
    ok: bool = True


def is_whole(sent: SentRequest) -> bool:
    """Answered as it should be when nothing is wrong."""
    return sent.status == 200 and not sent.degraded


def calm(
    requests: Sequence[SentRequest], since_s: float, for_s: float, rate: float
) -> float | None:
    """Since when requests have been answered whole for that long, strays apart; None: not yet.

    Args:
        since_s: what was due before does not count.
    """
    from_s = max((sent.due_s for sent in requests), default=since_s) - for_s
    recent = [sent for sent in requests if sent.due_s > from_s]
    strays = sum(not is_whole(sent) for sent in recent)
    is_calm = len(recent) >= 0.8 * rate * for_s and strays <= STRAY_SHARE * len(recent)
    return from_s if from_s >= since_s and is_calm else None


def finding(
    requests: Sequence[SentRequest],
    fault: Window,
    records: Iterable[Mapping[str, Any]],
    *,
    deadline_ms: float,
    calm_from_s: float | None,
    verified: bool,
    expected: str,
    waited_ms: Callable[[float, float], float],
) -> Finding:
    """The figures of one drill; what was promised is judged by `judged`.

    Args:
        records: decision records of the drill, with `decision_id` and `key`.
        calm_from_s: the calm after the fault; None: there was none.
        waited_ms: for a core between two moments, by the thread that waited longest.
    """
    answered = [sent for sent in requests if sent.status == 200]
    during = [sent for sent in answered if fault.from_s <= sent.due_s < fault.to_s]
    latencies_ms = sorted((s.first_s - s.due_s) * 1000 for s in requests if s.first_s is not None)
    late = [s for s in requests if _is_late(s, deadline_ms)]
    causes = collections.Counter(_cause(s, deadline_ms, waited_ms) for s in late)
    end_s = fault.to_s if calm_from_s is None else calm_from_s
    unwell = [s.due_s for s in requests if fault.to_s <= s.due_s < end_s and not is_whole(s)]
    last_s = max(unwell, default=fault.to_s)
    keys, ids = _recorded(records)
    return Finding(
        answers=len(answered),
        refused=_counts(s.problem or str(s.status) for s in requests if s.status not in (0, 200)),
        unanswered=sum(s.status == 0 for s in requests),
        late=len(late),
        late_share=round(len(late) / max(1, len(requests)), 5),
        fault_late=sum(fault.from_s <= s.due_s < fault.to_s for s in late),
        client_late=causes["client"],
        core_late=causes["core"],
        path_late=causes["path"],
        retried=sum(s.attempts > 1 for s in requests),
        degraded_share_before=_degraded([s for s in answered if s.due_s < fault.from_s]),
        degraded_share=_degraded(during),
        degraded_share_after=_degraded([s for s in answered if s.due_s > end_s]),
        degraded_reasons=_counts(str(s.reason) for s in answered if s.degraded),
        answered_by=_counts(s.answered_by for s in during),
        p50_ms=_percentile(latencies_ms, 0.5),
        p99_ms=_percentile(latencies_ms, 0.99),
        worst_ms=_percentile(latencies_ms, 1.0),
        recovery_s=round(last_s - fault.to_s, 2) if calm_from_s is not None else None,
        lost=sum(s.decision_id not in ids for s in answered),
        doubled=sum(count - 1 for count in keys.values()),
        verified=verified,
        expected=expected,
    )


def judged(found: Finding, shows: Shows) -> Finding:
    """The finding with its broken promises; lateness is a figure and breaks none.

    Args:
        shows: how the fault shows: a drill whose fault does not would prove nothing.
    """
    promises = {
        "no request goes unanswered": found.unanswered == 0,
        "no answer is without a record": found.lost == 0,
        "no key has two decisions": found.doubled == 0,
        "the log verifies": found.verified,
        "answers are whole again after the fault": found.recovery_s is not None,
        "no request is refused": shows == "refused" or not found.refused,
        f"what shows is: {shows}": _is_shown(found, shows),
    }
    broken = [name for name, holds in promises.items() if not holds]
    return msgspec.structs.replace(found, broken=broken, ok=not broken)


def _is_shown(found: Finding, shows: Shows) -> bool:
    match shows:
        case "degraded":
            return found.degraded_share > 0
        case "features":
            return "features" in found.degraded_reasons
        case "refused":
            return bool(found.refused) or found.retried > 0
        case "retried":
            return found.retried > 0
        case "nothing":
            return found.degraded_reasons.keys() <= BUSY_MACHINE
    assert_never(shows)


def _is_late(sent: SentRequest, deadline_ms: float) -> bool:
    return sent.first_s is None or (sent.first_s - sent.due_s) * 1000 > deadline_ms + ALLOWANCE_MS


def _cause(
    sent: SentRequest, deadline_ms: float, waited_ms: Callable[[float, float], float]
) -> Literal["client", "core", "path"]:
    if sent.sent_s - sent.due_s > CLIENT_LATE_S:
        return "client"
    if sent.first_s is None:
        return "path"
    late_ms = (sent.first_s - sent.due_s) * 1000 - deadline_ms - ALLOWANCE_MS
    return "core" if waited_ms(sent.due_s, sent.first_s) >= late_ms else "path"


def _degraded(answered: Sequence[SentRequest]) -> float:
    return round(sum(s.degraded for s in answered) / max(1, len(answered)), 4)


def _counts(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(words).items()))


def _percentile(values: Sequence[float], share: float) -> float:
    return round(values[min(len(values) - 1, int(share * len(values)))], 1) if values else 0.0


def _recorded(
    records: Iterable[Mapping[str, Any]],
) -> tuple[collections.Counter[str], set[str]]:
    keys: collections.Counter[str] = collections.Counter()
    ids: set[str] = set()
    for record in records:
        keys[record["key"]] += 1
        ids.add(record["decision_id"])
    return keys, ids
