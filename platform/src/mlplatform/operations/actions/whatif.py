"""The requests of the last days decided again by two bundles, from the inputs in the log."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlplatform.decisions.records.draws import logged_draws
from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.decisions.records.port import Span
from mlplatform.decisions.records.record import COLUMNS, Record
from mlplatform.learning.onnx.confined_model import MOST_EXPLAINER_BYTES, ConfinedModel
from mlplatform.learning.onnx.onnx_file import ScoringSession
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES
from mlplatform.learning.training.evaluate import Runnable, load_runnable
from mlplatform.model.bundle import BUNDLE_FILE, EXPLAINER_FILE, MODEL_FILE, Bundle, load_bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.model.inputs import InputPlan
from mlplatform.model.routes import Arm
from mlplatform.model.weights.data_files import data_of
from mlplatform.operations.actions.logged_requests import DAY_MS, LoggedRequests
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.verdicts.whatif import BundleDecisions, Requests, WhatIf, what_if
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, NotFound, Refused
from mlplatform.runtime.storage import plain_files

if TYPE_CHECKING:  # imports ONNX Runtime
    from mlplatform.scoring.request.explain import Decider

MOST_REQUESTS: Final = 2_000_000
TIMED_CALLS: Final = 300
EXPLAINED: Final = 200
MOST_DESCRIPTION_BYTES: Final = 16 * 1024 * 1024
"""Of the bundle.json of somebody's folder, which is parsed in this process."""


class Speed(msgspec.Struct, frozen=True):
    """How fast one bundle is on this machine: one request at a time, and many at once."""

    p50_ms: float
    p99_ms: float
    rows_per_s: float


class Reasons(msgspec.Struct, frozen=True, rename={"requests": "payments"}):
    """Counts, over requests on which one bundle alone raises an alert, of how often each reason is
    the first one; `requests` were asked, the first ones."""

    requests: int
    first: dict[str, int]


class Replay(msgspec.Struct, frozen=True):
    """What a replay found.

    Args:
        reference, candidate: what was replayed, in words.
        left_out: decisions made without fresh features, which no bundle could be blamed for.
        erased: decisions whose inputs were erased from the log, which nobody can decide again.
        served: decisions that the reference itself answered when they were made; `alike` of them
            come out the same from the log now.
        added, dropped: reasons of the candidate's own alerts, and of the reference's; None: the
            bundle is not of the registry, and only those are explained.
    """

    model: str
    reference: str
    candidate: str
    left_out: int
    erased: int
    served: int
    alike: int
    what_if: WhatIf
    reference_speed: Speed
    candidate_speed: Speed
    added: Reasons | None
    dropped: Reasons | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two bundles, ready to decide.

    Args:
        folder: of its bundle; None where nobody may load it but a confined process.
    """

    title: str
    version: int | None
    bundle: Bundle
    model: ScoringSession
    folder: Path | None


def side_of_version(platform: Platform, model: str, version: int | None) -> Side:
    """A version of the registry, the champion where none is named.

    Raises:
        NotFound: there is no such version, or no champion yet.
        Refused: the model decides by class, or gives numbers.
    """
    if (task := platform.definition(model).task) != "binary":
        raise Refused(f"the task of {model} is {task}: a replay compares alerts of two outcomes")
    if version is None:
        champion = platform.rollouts.routes(model).champion
        if champion is None:
            raise NotFound(f"{model} has no champion yet: name a version")
        arm = champion
    else:
        found = platform.registry.get(model, version)
        arm = Arm(found.version, found.digest, found.digest)
    folder = platform.bundle(model, arm)
    ready: Runnable = load_runnable(folder)
    return Side(f"version {arm.version}", arm.version, ready.bundle, ready.model, folder)


def side_of_folder(folder: Path) -> Side:
    """A bundle that somebody made: its model runs in a process that may do nothing else.

    Raises:
        BundleCorrupt: a file is missing, or not what its digest says.
        InputInvalid: the model is not taken, or a file is no plain one, or too large.
    """
    most = {BUNDLE_FILE: MOST_DESCRIPTION_BYTES, MODEL_FILE: MOST_BYTES}
    most[EXPLAINER_FILE] = MOST_EXPLAINER_BYTES
    for file in sorted(path for path in folder.iterdir() if not path.is_dir()):
        rule = plain_files.Rule(most.get(file.name, sys.maxsize), anyones=True)
        os.close(plain_files.open_plain(file, rule))
    bundle = load_bundle(folder)
    content = plain_files.read_plain(
        folder / MODEL_FILE, plain_files.Rule(MOST_BYTES, anyones=True)
    )
    data = data_of(folder, bundle.files)
    model = ConfinedModel(content, inputs=len(bundle.inputs), tensors=bundle.tensors, data=data)
    return Side(f"bundle {bundle.digest[:12]}", None, bundle, model, None)


def with_thresholds(side: Side, begins: Mapping[str, float]) -> Side:
    """The same model deciding from other scores on.

    Args:
        begins: outcome → the calibrated score (0-1) from which on it is given instead.

    Raises:
        ConfigInvalid: the bundle has no such outcome, or one would begin before a weaker one.
    """
    bundle = side.bundle
    others = bundle.scale.names[1:]
    if unknown := sorted(set(begins) - set(others)):
        raise ConfigInvalid("--from", unknown[0], f"one of {', '.join(others)}")
    after = bundle.thresholds | dict(begins)
    if after == bundle.thresholds:
        return side
    values = bundle.scale.begins(after)
    if not all(0 <= value <= 1 for value in begins.values()) or list(values) != sorted(values):
        scores_named = ", ".join(f"{name} {after[name]:g}" for name in others)
        raise ConfigInvalid(
            "--from", scores_named, "scores of 0 to 1, none below the one before it"
        )
    title = ", ".join([side.title, *(f"{name} from {after[name]:g}" for name in others)])
    # its reasons would be those of the bundle on disk
    changed = msgspec.structs.replace(bundle, thresholds=after)
    return Side(title, side.version, changed, side.model, None)


def replay(
    platform: Platform,
    model: str,
    reference: Side,
    candidate: Side,
    *,
    days: int,
    tell: Callable[[int], None] = lambda done: None,
) -> Replay:
    """Both bundles on the requests of the last days, as the log has them.

    Args:
        tell: called with the number of requests that are done.

    Raises:
        InputInvalid: no request, or more than fit into memory; or the candidate reads a feature
            that was not read when the requests were served.
    """
    definition, views = platform.definition(model), platform.views(model)
    now_ms = platform.clock.event_ms()
    logged = LoggedRequests(platform.log, definition, now_ms - days * DAY_MS, now_ms)
    runs = [_Run(side, definition, views) for side in (reference, candidate)]
    chunks: list[_Chunk] = []
    done = 0
    for rows in logged.pages():
        chunks.append(_Chunk(rows, [run.decide(rows) for run in runs], runs[0].bands(rows)))
        done += rows.num_rows
        if done > MOST_REQUESTS:
            raise InputInvalid(
                "--days",
                None,
                f"more than {MOST_REQUESTS:,} requests in {days} days: ask for fewer",
            )
        tell(done)
    if not done:
        raise InputInvalid("--days", None, f"no request in the last {days} days: ask for more")
    runs[1].check_features()
    requests, served = _together(chunks, logged, reference)
    found = what_if(requests, capacity=definition.decision.alert_share)
    only = requests.candidate.alert & ~requests.reference.alert
    no_more = requests.reference.alert & ~requests.candidate.alert
    ids = np.concatenate([chunk.ids for chunk in chunks])
    return Replay(
        model=model,
        reference=reference.title,
        candidate=candidate.title,
        left_out=logged.left_out,
        erased=logged.erased,
        served=served[0],
        alike=served[1],
        what_if=found,
        reference_speed=runs[0].speed(),
        candidate_speed=runs[1].speed(),
        added=_reasons(platform, model, candidate, ids[only]),
        dropped=_reasons(platform, model, reference, ids[no_more]),
    )


class _Run:
    """One bundle on page after page."""

    def __init__(
        self, side: Side, definition: ModelDefinition, views: Sequence[FeatureView]
    ) -> None:
        self._side = side
        bundle = side.bundle
        self._plan = InputPlan(
            definition, views, bundle.inputs, bundle.defaults, bundle.vocabularies
        )
        self._inputs = LoggedInputs(self._plan)
        self._rows_with = np.zeros(len(self._plan.features), dtype=np.int64)
        self._watched = definition.drift.inputs
        self._first: npt.NDArray[np.float32] | None = None
        self._last: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._rows, self._took_s = 0, 0.0

    def decide(self, rows: pa.Table) -> BundleDecisions:
        logged = self._inputs.read(rows)
        facts, self._last = logged.facts, logged.matrix
        there = [facts.num_rows - facts[name].null_count for name in self._plan.features]
        self._rows_with += np.array(there, dtype=np.int64)  # a model may read no feature at all
        if self._first is None:
            self._first = self._last[:TIMED_CALLS]
        began_s = time.perf_counter()
        raw = self._side.model.scores(self._last)
        self._took_s += time.perf_counter() - began_s
        self._rows += len(self._last)
        bundle = self._side.bundle
        score = bundle.calibrate_many(raw)
        return BundleDecisions(score, bundle.decide_many(score), bundle.scale)

    def bands(self, rows: pa.Table) -> dict[str, npt.NDArray[np.int64]]:
        """The band of each request that was decided last, by watched input that is a number."""
        found = {}
        known = self._side.bundle.profile.inputs.keys() - self._side.bundle.vocabularies.keys()
        for name in self._watched:
            if name in self._plan.names and name in known:
                values = self._last[:, self._plan.names.index(name)]
                codes = np.searchsorted(self.edges(name), values).astype(np.int64)
                found[name] = np.where(np.isfinite(values), codes, -1)
        return found

    def edges(self, name: str) -> tuple[float, ...]:
        """The edges of an input's bands: the deciles of the days that the bundle was held to."""
        return self._side.bundle.profile.inputs[name].edges

    def check_features(self) -> None:
        never = [
            n for n, count in zip(self._plan.features, self._rows_with, strict=True) if not count
        ]
        if never:
            raise InputInvalid(
                "decision log", None,
                f"{', '.join(never)} was never read when these requests were served: train and "
                "validate the version on history instead (mlplatform retrain)",
            )  # fmt: skip

    def speed(self) -> Speed:
        rows = self._last[:0] if self._first is None else self._first
        took_s = []
        for row in rows:
            began_s = time.perf_counter()
            self._side.model.scores(row[None, :])
            took_s.append(time.perf_counter() - began_s)
        p50, p99 = (1000 * float(np.quantile(took_s, q)) for q in (0.5, 0.99))
        return Speed(p50, p99, self._rows / max(self._took_s, 1e-9))


class _Chunk:
    """A page that both bundles have decided, without its payloads."""

    def __init__(
        self,
        rows: pa.Table,
        decided: Sequence[BundleDecisions],
        bands: Mapping[str, npt.NDArray[np.int64]],
    ) -> None:
        def column(name: str) -> npt.NDArray[Any]:
            return np.asarray(rows[name].to_numpy(zero_copy_only=False))

        self.ids, self.event_ms, self.unit = map(column, ("decision_id", "event_ms", "unit"))
        self.version, self.logged = column("version"), column("decision")
        draws = logged_draws(rows)
        let_through = (draws.get(i) for i in self.ids)
        self.by_model = np.array(
            [
                decision if draw is None or draw.explored_instead_of is None
                else draw.explored_instead_of
                for decision, draw in zip(self.logged, let_through, strict=True)
            ],
            dtype=object,
        )  # fmt: skip
        self.sound = ~column("degraded").astype(bool)
        self.decided, self.bands = decided, bands


def _together(
    chunks: Sequence[_Chunk], logged: LoggedRequests, reference: Side
) -> tuple[Requests, tuple[int, int]]:
    """All pages as one, and of the reference's own decisions, how many there are and are alike."""

    def joined(of: Callable[[_Chunk], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate([of(chunk) for chunk in chunks])

    def side(number: int) -> BundleDecisions:
        return BundleDecisions(
            joined(lambda chunk: chunk.decided[number].score),
            joined(lambda chunk: chunk.decided[number].decision),
            chunks[0].decided[number].scale,
        )

    def band(name: str) -> tuple[Sequence[float], npt.NDArray[np.int64]]:
        edges = reference.bundle.profile.inputs[name].edges
        return edges, joined(lambda chunk: chunk.bands[name])

    event_ms = joined(lambda chunk: chunk.event_ms).astype(np.int64)
    decisions = joined(lambda chunk: chunk.logged)
    again = side(0)
    ids = joined(lambda chunk: chunk.ids)
    outcome, hidden = logged.outcomes(ids.tolist(), event_ms, decisions)
    own = joined(lambda chunk: (chunk.version == reference.version) & chunk.sound)
    by_model = joined(lambda chunk: chunk.by_model)
    alike = own & (by_model == np.array(again.scale.names, dtype=object)[again.decision])
    requests = Requests(
        event_ms=event_ms,
        unit=joined(lambda chunk: chunk.unit).astype(np.int64),
        reference=again,
        candidate=side(1),
        outcome=outcome,
        hidden=hidden,
        bands={name: band(name) for name in chunks[0].bands},
    )
    return requests, (int(own.sum()), int(alike.sum()))


def _reasons(platform: Platform, model: str, side: Side, ids: npt.NDArray[Any]) -> Reasons | None:
    """The first reasons of a bundle's alerts on these decisions, as `log explain` finds them."""
    if side.folder is None:
        return None
    from mlplatform.scoring.request.explain import explain_records, load_decider  # ONNX Runtime

    bundles = side.folder.parent
    decider: Decider = load_decider(bundles, model, side.bundle.digest)
    asked = tuple(ids[:EXPLAINED].tolist())
    rows = []
    if asked:
        span = Span(model=model, kinds=("decision",), decision_ids=asked, columns=tuple(COLUMNS))
        rows = platform.log.read(span).to_pylist()
    first: Counter[str] = Counter()
    for row in rows:
        payload = msgspec.json.decode(row["payload"] or b"{}")
        record = msgspec.convert(
            {k: v for k, v in row.items() if v is not None}
            | {"payload": payload, "bundle": side.bundle.digest, "answered_by": "champion"},
            Record,
        )
        (explanation,) = explain_records([record], lambda *_: decider)
        codes = explanation.again.reasons if explanation.again is not None else ()
        first[codes[0] if codes else "none"] += 1
    return Reasons(len(rows), dict(first.most_common()))
