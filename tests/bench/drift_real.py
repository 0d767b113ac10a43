"""What drift checks make of data that nobody here made: run as a process, it prints JSON.

Each rule plays the days of a stream as a platform would: a model is trained on the first of them,
then serves; labels come late; at an alarm the rule retrains on what has matured, at most once a
week. Beside the platform's own functions play ADWIN and Evidently's defaults, a retrain each week
whatever happens, and none at all. A retrain serves from the next day on: there is no rollout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from tests.bench.drift import FRAUD, HALF, ONE_COLUMN, Baselines, Champion, Day
from tests.bench.drift_streams import (
    CHANGE,
    Floats,
    Stream,
    TrainedModel,
    elec2,
    handbook,
    together,
)

from mlplatform.rollouts.drift.faults import ViewReading
from mlplatform.rollouts.drift.incidents import FAULT, KINDS, Change, Incident
from mlplatform.rollouts.drift.matured_outcomes import ScoredRequests, matured_day
from mlplatform.rollouts.drift.next_step import (
    CloseIncident,
    IncidentStatus,
    Observation,
    OpenIncident,
    next_step,
)
from mlplatform.rollouts.drift.performance import (
    MOST_REFERENCE_DAYS,
    RECENT_DAYS,
    MaturedDay,
    MaturedDays,
    performance_verdict,
)
from mlplatform.rollouts.drift.retrain import MaturedRequests, Page, Retrain
from mlplatform.rollouts.drift.verdict import Window, WindowVerdict, drift_verdict, window_verdict
from mlplatform.runtime.units import DAY_MS

NEVER, WEEKLY, PLATFORM = "never retrained", "retrained weekly", "platform"
ADWIN: Final = ("adwin, scores", "adwin, mistakes")
RULES: Final = (NEVER, WEEKLY, PLATFORM, *ADWIN, ONE_COLUMN, HALF)
PAUSE_DAYS: Final = 7
"""Between two retrains of any rule: the platform's `drift.retrain_cooldown_days`."""
TRAILING_DAYS, GAIN_DAYS, LOSS = 14, 28, FRAUD.drift.performance_drop
MONTH_DAYS: Final = 30


@dataclasses.dataclass(frozen=True, slots=True)
class DayFinding:
    """What a rule says as a day ends: what alarmed just now, and whether to retrain."""

    alarms: tuple[str, ...] = ()
    retrain: bool = False


class PlatformRule:
    """Every check of a platform: windows, matured labels, incidents, and when one is answered."""

    def __init__(self, stream: Stream, champion: Champion) -> None:
        self._stream, self._version, self._opened = stream, 0, 0
        self._incidents: dict[str, Incident] = {}
        self._retrains: list[tuple[int, str]] = []
        self.pages = 0
        self.replaced(champion)

    def replaced(self, champion: Champion) -> None:
        self._champion, self._version = champion, self._version + 1
        self._verdicts: list[WindowVerdict] = []
        self._lived: list[Day] = []
        self._matured: list[MaturedDay] = []

    def check(self, day: Day) -> DayFinding:
        self._lived.append(day)
        self._matured.append(
            matured_day(
                day.number * DAY_MS, ScoredRequests(day.units, day.scores, day.fraud),
                capacity=self._stream.alert_share,
            )
        )  # fmt: skip
        seen = self._observed((day.number + 1) * DAY_MS)
        alarms: list[str] = []
        for kind in KINDS:
            if self._follow(kind, seen, alarms):
                return DayFinding(tuple(alarms), retrain=True)
        return DayFinding(tuple(alarms))

    def _observed(self, now_ms: int) -> Observation:
        model = self._stream.model
        policy, late = model.drift, model.label.maturity_days
        long = policy.window_h // 24
        if now_ms // DAY_MS % long == 0 and len(self._lived) >= long:
            self._verdicts.append(self._window(self._lived[-long:]))
        known = self._matured[: max(len(self._matured) - late, 0)]
        known = [*known[:MOST_REFERENCE_DAYS], *known[MOST_REFERENCE_DAYS:][-RECENT_DAYS:]]
        last = tuple(self._verdicts[-policy.windows :])
        return Observation(
            self._version, now_ms, (), last, drift_verdict(last, policy),
            performance_verdict(MaturedDays(tuple(known)), policy),
        )  # fmt: skip

    def _window(self, days: Sequence[Day]) -> WindowVerdict:
        start_ms = days[0].number * DAY_MS
        scores, units = (np.concatenate([getattr(d, n) for d in days]) for n in ("scores", "units"))
        champion, fresh = self._champion, ViewReading(start_ms, int(1.5 * DAY_MS))
        window = Window(
            start_ms, (days[-1].number + 1) * DAY_MS,
            {n: np.concatenate([d.inputs[n] for d in days]) for n in days[0].inputs},
            units, scores, scores >= champion.review, units,
            views=dict.fromkeys(self._stream.views, fresh),
        )  # fmt: skip
        policy = self._stream.model.drift
        return window_verdict(champion.profile, window, policy, champion.band, champion.rhythms)

    def _follow(self, kind: str, seen: Observation, alarms: list[str]) -> bool:
        """Take the steps that are due for one kind; whether a retrain is among them."""
        while True:
            incident = self._incidents.get(kind)
            status = IncidentStatus() if incident is None else self._status(incident, seen.now_ms)
            step = next_step(self._stream.model, seen, kind, incident, status, wall_ms=seen.now_ms)
            match step:
                case OpenIncident(found):
                    self._opened += 1
                    change = Change(1, seen.now_ms, "open", 0, None, "opened")
                    self._incidents[kind] = Incident(
                        f"{kind}-{self._opened}", found, "open", 0, None, 0, None, (change,)
                    )
                    alarms.append(kind)
                case CloseIncident():
                    del self._incidents[kind]
                case Retrain() if incident is not None:
                    self._retrains.append((seen.now_ms, incident.id))
                    return True
                case Page():
                    self.pages += 1
                    return False
                case _:
                    return False

    def _status(self, incident: Incident, now_ms: int) -> IncidentStatus:
        stream = self._stream
        until = now_ms // DAY_MS - stream.model.label.maturity_days
        until -= stream.model.training.holdout_days
        since = [stream.days[n].y for n in range(incident.found.changed_ms // DAY_MS, until)]
        matured = MaturedRequests(sum(len(y) for y in since), int(sum(y.sum() for y in since)))
        fault = self._incidents.get(FAULT)
        others = [(at_ms, i) for at_ms, i in self._retrains if i != incident.id]
        return IncidentStatus(matured, fault=None if fault is None else fault.id, retrains=others)


class AlarmRule:
    """A detector of others: each of its alarms asks for a retrain, as soon as one may be."""

    def __init__(self, stream: Stream, champion: Champion, name: str) -> None:
        self._stream, self._name = stream, name
        self._replaced_at = -PAUSE_DAYS
        self.replaced(champion)

    def replaced(self, champion: Champion) -> None:
        self._baselines = Baselines(champion)
        self._lived: list[Day] = []
        self._asks = self._was = False

    def check(self, day: Day) -> DayFinding:
        self._lived.append(day)
        now = self._now(day)
        began, self._was = now and not self._was, now
        self._asks |= began
        retrain = self._asks and day.number >= self._replaced_at + PAUSE_DAYS
        if retrain:
            self._replaced_at = day.number
        return DayFinding((self._name,) if began else (), retrain)

    def _now(self, day: Day) -> bool:
        model = self._stream.model
        if self._name in ADWIN:
            late = model.label.maturity_days
            matured = self._lived[-late - 1] if len(self._lived) > late else None
            return self._baselines.adwin(day, matured)[self._name]
        long = model.drift.window_h // 24
        if (day.number + 1) % long or len(self._lived) < long:
            return self._was
        return self._baselines.evidently(_joined(self._lived[-long:]))[self._name]


class FixedRule:
    """A retrain every so many days; 0: none."""

    def __init__(self, days: int) -> None:
        self._days, self._since = days, 0

    def replaced(self, champion: Champion) -> None:
        self._since = 0

    def check(self, day: Day) -> DayFinding:
        self._since += 1
        return DayFinding(retrain=self._days > 0 and self._since >= self._days)


def _joined(days: Sequence[Day]) -> Day:
    def all_of(name: str) -> Any:
        return np.concatenate([getattr(d, name) for d in days])

    inputs = {n: np.concatenate([d.inputs[n] for d in days]) for n in days[0].inputs}
    last = days[-1].number
    return Day(last, all_of("units"), inputs, all_of("scores"), all_of("fraud"), all_of("segment"))


@dataclasses.dataclass(slots=True)
class RuleRun:
    """What one rule did: scores by day, alarms by kind and day, retrains, and what each gained."""

    scores: dict[int, Floats]
    alarms: list[tuple[int, str]]
    retrains: list[int]
    gains: list[float]
    pages: int = 0


def play(stream: Stream, name: str) -> RuleRun:
    """The days of a stream under one rule."""
    trained = stream.train(stream.first)
    rule = _rule(stream, trained.champion, name)
    found = RuleRun({}, [], [], [])
    for number in range(stream.first, stream.end):
        found.scores[number] = scores = trained.scores(stream.days[number].x)
        said = rule.check(stream.day(number, scores))
        found.alarms += [(number, alarm) for alarm in said.alarms]
        if said.retrain and number + 1 < stream.end:
            before, trained = trained, stream.train(number + 1)
            rule.replaced(trained.champion)
            found.retrains.append(number + 1)
            found.gains.append(_gain(stream, before, trained, number + 1))
    found.pages = rule.pages if isinstance(rule, PlatformRule) else 0
    return found


def _rule(stream: Stream, champion: Champion, name: str) -> PlatformRule | AlarmRule | FixedRule:
    if name == PLATFORM:
        return PlatformRule(stream, champion)
    if name in (NEVER, WEEKLY):
        return FixedRule(PAUSE_DAYS if name == WEEKLY else 0)
    return AlarmRule(stream, champion, name)


def _gain(stream: Stream, before: TrainedModel, after: TrainedModel, number: int) -> float:
    """How much better the new model is than the old one on the next days of both."""
    rows = [stream.days[n] for n in range(number, min(number + GAIN_DAYS, stream.end))]
    x, y = together(rows)
    return stream.metric(after.scores(x), y) - stream.metric(before.scores(x), y)


def compared(stream: Stream) -> dict[str, Any]:
    """Every rule on the same days, and what it cost and gained beside the others."""
    played: dict[str, RuleRun] = {}
    for name in RULES:
        began = time.monotonic()
        played[name] = play(stream, name)
        print(f"{stream.name}, {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    days = range(stream.first, stream.end)
    means = {name: _mean(stream, p.scores) for name, p in played.items()}
    trailing = {name: _trailing(stream, p.scores) for name, p in played.items()}
    rules = {}
    for name, p in played.items():
        least = {d: (1 - LOSS) * trailing[WEEKLY][d] for d in days}
        lost = [d for d in days if trailing[name][d] < least[d]]
        rules[name] = {
            "metric": means[name],
            "beside_never": means[name] - means[NEVER],
            "alarms": [(_date(d), kind) for d, kind in p.alarms],
            "alarms_a_month": len(p.alarms) * MONTH_DAYS / len(days),
            "retrains": len(p.retrains),
            "gain_of_a_retrain": float(np.mean(p.gains)) if p.gains else None,
            "days_of_loss": len(lost),
            "days_of_loss_unnoticed": _unnoticed(lost, [d for d, _ in p.alarms]),
            "asked_a_person": p.pages,
        }
    return {
        "days": len(days),
        "from": _date(stream.first),
        "changed": None if stream.changed is None else _date(stream.changed),
        "maturity_days": stream.model.label.maturity_days,
        "rules": rules,
    }


def _mean(stream: Stream, scores: Mapping[int, Floats]) -> float:
    """The metric, a mean over weeks."""
    weeks = range(stream.first, stream.end - 6, 7)
    return float(np.mean([_over(stream, scores, range(w, w + 7)) for w in weeks]))


def _trailing(stream: Stream, scores: Mapping[int, Floats]) -> dict[int, float]:
    return {
        d: _over(stream, scores, range(max(d - TRAILING_DAYS + 1, stream.first), d + 1))
        for d in scores
    }


def _over(stream: Stream, scores: Mapping[int, Floats], days: range) -> float:
    own = np.concatenate([scores[d] for d in days])
    return stream.metric(own, np.concatenate([stream.days[d].y for d in days]))


def _unnoticed(lost: Sequence[int], alarms: Sequence[int]) -> int:
    """Days of loss before an alarm of its stretch, or of the week before the stretch."""
    found, began = 0, -1
    for place, day in enumerate(lost):
        if place == 0 or lost[place - 1] != day - 1:
            began = day
        found += not any(began - PAUSE_DAYS <= a <= day for a in alarms)
    return found


def _date(number: int) -> str:
    return f"{datetime.fromtimestamp(number * 86_400, UTC):%Y-%m-%d}"


def main() -> None:
    """Print what came of each stream whose path is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elec2", type=Path, help="elec2 as Parquet")
    parser.add_argument("--handbook", type=Path, help="folder of the handbook's transactions")
    parser.add_argument("--customers", type=float, default=0.15, help="share of the handbook's")
    options = parser.parse_args()
    os.environ["DO_NOT_TRACK"] = "1"  # read by Evidently at import
    found: dict[str, Any] = {}
    if options.elec2 is not None:
        found["elec2"] = compared(elec2(options.elec2))
    if options.handbook is not None:
        for change in (None, CHANGE):
            stream = handbook(options.handbook, options.customers, change)
            found[stream.name] = compared(stream)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
