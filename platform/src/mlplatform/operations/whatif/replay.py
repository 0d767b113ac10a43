"""The requests of the last days decided again by two bundles, from the inputs in the log."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import COLUMNS, Record
from mlplatform.learning.onnx.confined_model import MOST_EXPLAINER_BYTES, ConfinedModel
from mlplatform.learning.onnx.onnx_file import ScoringSession
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES
from mlplatform.learning.training.evaluate import Runnable, load_runnable
from mlplatform.model.bundle import BUNDLE_FILE, EXPLAINER_FILE, MODEL_FILE, Bundle, load_bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.decision_checks import rises
from mlplatform.model.policies.decision_scale import DecisionScale
from mlplatform.model.routes import Arm
from mlplatform.model.weights.data_files import data_of
from mlplatform.operations.whatif.decided_pages import (
    BundleRun,
    DecidedPage,
    Speed,
    joined,
    own_decisions,
    requests_of,
)
from mlplatform.operations.whatif.logged_requests import LoggedRequests
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.rollouts.whatif.changes import DisagreementLimits, check_comparable, what_if
from mlplatform.rollouts.whatif.report import WhatIf
from mlplatform.rollouts.whatif.shadow import ShadowDisagreement, shadow_disagreements
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, NotFound, Refused
from mlplatform.runtime.storage import plain_files
from mlplatform.runtime.units import DAY_MS, MIB
from mlplatform.scoring import wiring as scoring_wiring

if TYPE_CHECKING:  # imports ONNX Runtime
    from mlplatform.scoring.request.explain import Decider

MOST_REQUESTS: Final = 2_000_000
EXPLAINED: Final = 200
MOST_DESCRIPTION_BYTES: Final = 16 * MIB
"""Most bytes of a bundle.json in a person's folder, because this process parses it."""


class Reasons(msgspec.Struct, frozen=True):
    """Counts, over requests on which one bundle alone raises an alert, of how often each reason is
    the first one; `requests` were asked, the first ones."""

    requests: int
    first: dict[str, int]


class Replay(msgspec.Struct, frozen=True):
    """The result of a replay.

    Args:
        reference, candidate: the two sides, in words.
        left_out: number of decisions made without fresh features, for which no bundle is
            responsible.
        erased: number of decisions whose inputs were erased from the log, so that they can't be
            repeated.
        served: number of decisions that the reference itself answered at that time; for `alike` of
            them the replay gives the same.
        shadow: later disagreement of the two in shadow, if it was judged.
        added, dropped: reasons of alerts that only the candidate raises, and of those that only the
            reference raises. None if the side has no folder, because reasons need the bundle on
            disk. UNSET, and absent from JSON, if neither bundle has alerts.
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
    shadow: tuple[ShadowDisagreement, ...]
    added: Reasons | UnsetType | None = UNSET
    dropped: Reasons | UnsetType | None = UNSET


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two bundles, ready to decide.

    Args:
        folder: the folder of its bundle; None if only a confined process may load it, or if the
            thresholds differ from the bundle's on disk.
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
    """
    if version is None:
        champion = platform.rollouts.routes(model).champion
        if champion is None:
            raise NotFound(
                f"{model} has no champion yet: name a version that `mlplatform models list` shows"
            )
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
        InputInvalid: the model is not accepted, or a file is not a plain file or is too large.
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
    model = ConfinedModel(
        content,
        inputs=len(bundle.inputs),
        tensors=bundle.tensors,
        data=data,
        classes=bundle.classes,
    )
    return Side(f"bundle {bundle.digest[:12]}", None, bundle, model, None)


def with_thresholds(side: Side, begins: Mapping[str, float]) -> Side:
    """A model with the same bundle that decides from other scores, or numbers, on.

    Args:
        begins: outcome → new calibrated score (0-1), or number, at which it begins; for a segment
            with thresholds of its own, `SEGMENT.OUTCOME`.

    Raises:
        ConfigInvalid: the bundle has no such outcome or segment, or an outcome would begin below a
            weaker one.
    """
    bundle = side.bundle
    others = () if bundle.scale.by_class else bundle.scale.names[1:]
    if begins and not others:
        by_class = "a class is decided by the largest probability, and begins at no score"
        alone = "this bundle gives its number and no outcome"
        why = by_class if bundle.scale.by_class else alone
        raise ConfigInvalid("--from", next(iter(begins)), f"nothing: {why}")
    own = {segment.name: segment.thresholds for segment in bundle.segment_thresholds}
    named: dict[str, dict[str, float]] = {}
    for key, score in begins.items():
        segment, _, name = key.rpartition(".")
        if name not in others or segment not in {"", *own}:
            wanted = f"one of {', '.join(others)}"
            within = f"; in a segment ({', '.join(own)}) SEGMENT.OUTCOME" if own else ""
            raise ConfigInvalid("--from", key, wanted + within)
        named.setdefault(segment, {})[name] = score
    before = {"": bundle.thresholds, **own}
    after = {segment: before[segment] | changes for segment, changes in named.items()}
    after = {segment: found for segment, found in after.items() if found != before[segment]}
    if not after:
        return side
    for segment, found in after.items():
        _check_begins(bundle.scale, found, named[segment])
    outside = f" outside of {', '.join(own)}" if own else ""
    changed = (
        ", ".join(f"{name} from {found[name]:g}" for name in others)
        + (f" in {segment}" if segment else outside)
        for segment, found in after.items()
    )
    segments = tuple(
        msgspec.structs.replace(segment, thresholds=after.get(segment.name, segment.thresholds))
        for segment in bundle.segment_thresholds
    )
    # no folder: its reasons would be those of the bundle on disk
    other = msgspec.structs.replace(
        bundle, thresholds=after.get("", bundle.thresholds), segment_thresholds=segments
    )
    return Side(", ".join([side.title, *changed]), side.version, other, side.model, None)


def _check_begins(
    scale: DecisionScale, after: Mapping[str, float], begins: Mapping[str, float]
) -> None:
    """Raises unless outcomes may begin there. Args as for `_may_begin`."""
    if _may_begin(scale, after, begins):
        return
    number, named = scale.number, ", ".join(f"{name} {after[name]:g}" for name in scale.names[1:])
    in_unit = "" if number is None else f"numbers in {number.unit}, each above the one before"
    wanted = in_unit or "scores of 0 to 1, none below the one before it"
    asked = ", ".join(f"{name}={score:g}" for name, score in begins.items())
    raise ConfigInvalid("--from", asked, f"{wanted}; by this value they would begin at {named}")


def _may_begin(
    scale: DecisionScale, after: Mapping[str, float], begins: Mapping[str, float]
) -> bool:
    """Whether outcomes may begin there.

    Args:
        after: values of all outcomes but the first.
        begins: values of the outcomes that are changed.
    """
    values = scale.begins(after)
    if scale.number is not None:
        return all(map(math.isfinite, values)) and rises(values, strictly=True)
    return all(0 <= value <= 1 for value in begins.values()) and rises(values, strictly=False)


def replay(
    platform: Platform,
    model: str,
    reference: Side,
    candidate: Side,
    *,
    days: int,
    report: Callable[[int], None] = lambda done: None,
) -> Replay:
    """Decide the logged requests of the last days by both bundles.

    Args:
        report: called with the number of requests that are done.

    Raises:
        InputInvalid: there is no request, or there are too many for the memory; or the candidate
            reads a feature that was not read when the requests were served.
        Refused: a bundle has another task than the model or the other bundle.
    """
    definition, views = platform.definition(model), platform.views(model)
    _check_tasks(definition, reference, candidate)
    now_ms = platform.clock.event_ms()
    logged = LoggedRequests(platform.log, definition, now_ms - days * DAY_MS, now_ms)
    runs = [BundleRun(s.bundle, s.model, definition, views) for s in (reference, candidate)]
    pages = _decide(logged, runs, definition, days=days, report=report)
    runs[1].check_features()
    requests = requests_of(pages, logged, definition, reference.bundle)
    served, alike = own_decisions(pages, requests.reference, reference.version)
    stop, tolerance = definition.rollout.stop, definition.rollout.shadow.tolerance
    found = what_if(requests, DisagreementLimits(tolerance.disagreement, stop.disagreement))
    added: Reasons | UnsetType | None = UNSET
    dropped: Reasons | UnsetType | None = UNSET
    if found.both_alerts is not None:
        mine, theirs = requests.reference.alerts, requests.candidate.alerts
        ids = joined(pages, lambda page: page.ids)
        added = _reasons(platform, model, candidate, ids[theirs & ~mine])
        dropped = _reasons(platform, model, reference, ids[mine & ~theirs])
    return Replay(
        model=model,
        reference=reference.title,
        candidate=candidate.title,
        left_out=logged.left_out,
        erased=logged.erased,
        served=served,
        alike=alike,
        what_if=found,
        reference_speed=runs[0].speed(),
        candidate_speed=runs[1].speed(),
        shadow=_seen_in_shadow(platform, model, found, reference, candidate),
        added=added,
        dropped=dropped,
    )


def replay_versions(
    platform: Platform,
    model: str,
    version: int,
    *,
    against: int | None,
    begins: Mapping[str, float],
    days: int,
    report: Callable[[int], None] = lambda done: None,
) -> Replay:
    """Decide the logged requests of the last days by two versions of the registry.

    Args:
        against: the version that `version` is compared with; None: the champion.
        begins: outcome → score (0-1), or number, at which it begins with `version`.
        report: called with the number of requests that are done.

    Raises:
        ConfigInvalid: both sides are the same, or an outcome can't begin there.
        InputInvalid, Refused: for the same reasons as in `replay`.
        NotFound: there is no such version, or no champion yet.
    """
    reference = side_of_version(platform, model, against)
    with closing(reference.model):
        if reference.version == version and not begins:
            wanted = "a version other than the reference, or `begins` with outcomes"
            raise ConfigInvalid("version", version, wanted)
        candidate = with_thresholds(side_of_version(platform, model, version), begins)
        with closing(candidate.model):
            return replay(platform, model, reference, candidate, days=days, report=report)


def _check_tasks(definition: ModelDefinition, reference: Side, candidate: Side) -> None:
    task = reference.bundle.scale.task
    if task != definition.task:
        raise Refused(
            f"the task of {definition.name} is {definition.task} and that of {reference.title} "
            f"{task}: name a version of that task by --against"
        )
    check_comparable(reference.bundle.scale, candidate.bundle.scale)


def _decide(
    logged: LoggedRequests,
    runs: Sequence[BundleRun],
    definition: ModelDefinition,
    *,
    days: int,
    report: Callable[[int], None],
) -> list[DecidedPage]:
    pages: list[DecidedPage] = []
    done = 0
    for rows in logged.pages():
        pages.append(DecidedPage(rows, runs, logged, definition))
        done += rows.num_rows
        if done > MOST_REQUESTS:
            raise InputInvalid(
                "--days",
                None,
                f"more than {MOST_REQUESTS:,} requests in {days} days: ask for fewer",
            )
        report(done)
    if not done:
        raise InputInvalid("--days", None, f"no request in the last {days} days: ask for more")
    return pages


def _seen_in_shadow(
    platform: Platform, model: str, found: WhatIf, reference: Side, candidate: Side
) -> tuple[ShadowDisagreement, ...]:
    """Disagreements that shadow saw, in rollouts of the candidate's bundle; reading makes no
    journal."""
    if found.disagreement is None or not scoring_wiring.has_rollouts(platform.settings):
        return ()
    bundle = candidate.bundle.digest
    return shadow_disagreements(
        _journals(platform, model, bundle),
        found.disagreement,
        reference=reference.bundle.digest,
        candidate=bundle,
    )


def _journals(platform: Platform, model: str, bundle: str) -> Iterator[Sequence[Transition]]:
    for state in platform.rollouts.active(model, finished=True):
        if state.challenger.bundle == bundle:
            yield platform.rollouts.read(state.rollout_id)


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
        query = RecordQuery(
            model=model, kinds=("decision",), decision_ids=asked, columns=tuple(COLUMNS)
        )
        rows = platform.log.read(query).to_pylist()
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
