"""Training: from matured requests to a registered version, or to a report that says why there is
none."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.learning.features.snapshots import snapshot_days
from mlplatform.learning.onnx.model_files import ModelFiles, model_files
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES, ModelRefused
from mlplatform.learning.registry.run_record import RunRecord
from mlplatform.learning.registry.versions import Rejection, Version
from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import Runnable, load_runnable
from mlplatform.learning.training.external_model import candidate_from_onnx
from mlplatform.learning.training.folder import ModelFolder, load_folder
from mlplatform.learning.training.folds import (
    fold_problem,
    later_rows,
    tested_fold,
    untrainable_fold_reason,
)
from mlplatform.learning.training_sets.dataset import TrainingSet
from mlplatform.learning.training_sets.shortage import FirstDays, holdings, shortage
from mlplatform.learning.validation.fold_gate import FoldFinding
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.replay import Recent
from mlplatform.model.bundle import MODEL_FILE
from mlplatform.model.features.views import request_views
from mlplatform.model.folders import is_ready, load_definition, model_folder
from mlplatform.model.folds import Fold, folds
from mlplatform.operations.actions import fitting
from mlplatform.operations.actions.skew import last_skew, lost
from mlplatform.operations.compute.jobs import JobStatus
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift import claims
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import GateFailed, InputInvalid, NotFound, Refused
from mlplatform.runtime.storage import plain_files
from mlplatform.runtime.telemetry.refusals import Refusal
from mlplatform.runtime.text import cleaned
from mlplatform.runtime.times import day_text, iso_second_text
from mlplatform.runtime.units import DAY_MS, DAY_S

COPIES: Final = ".brought."
FORGOTTEN_S: Final = DAY_S
"""Seconds after which copies of data files count as abandoned: no run takes so long to make a
candidate."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """The gates' report on a candidate, and the record of the training run."""

    report: GateReport
    record: RunRecord


@dataclass(frozen=True, slots=True)
class TrainingInputs:
    """The data a candidate is made from and compared with.

    Args:
        champion_version: the champion's version; None if there is no champion.
    """

    dataset: TrainingSet
    champion: Runnable | None
    recent: Recent | None
    skew: SkewReport | None = None
    champion_version: int | None = None


def prepare_training(platform: Platform, model: str, as_of_ms: int | None) -> TrainingInputs:
    """The training set as of a moment (None: now), the champion, and recent requests.

    Raises:
        InputInvalid: the moment is not known yet, or nothing has matured by then.
    """
    now_ms = training_moment(as_of_ms, platform.clock.event_ms())
    folder, offline = load_folder(model), platform.project_offline(model)
    arm = platform.rollouts.routes(model).champion
    champion = None if arm is None else load_runnable(platform.bundle(model, arm))
    join = platform.training_join
    dataset = retrain.build_dataset(folder, offline, as_of_ms=now_ms, champion=champion, join=join)
    recent = retrain.recent_requests(folder, offline, as_of_ms=now_ms, champion=champion, join=join)
    skew, version = _skew(platform, model, dataset), None if arm is None else arm.version
    return TrainingInputs(dataset, champion, recent, skew, version)


def check_holds_enough(platform: Platform, model: str, prepared: TrainingInputs) -> None:
    """Raises where no fit to the training set could pass.

    Raises:
        GateFailed: there are too few requests or positives, or an input without a value; the
            message says which days would do.
    """
    folder, offline = load_folder(model), platform.offline(model)
    as_of_ms, held = prepared.dataset.as_of_ms, holdings(folder.definition, prepared.dataset)
    known = offline.requests(as_of_ms=as_of_ms)
    ((first_ms,),) = known.aggregate("epoch_ms(min(event_time))").fetchall()
    views = {
        view.name: min(snapshot_days(offline, view), default=None)
        for view in request_views(folder.views)
    }
    if problem := shortage(folder.definition, held, FirstDays(first_ms, views), as_of_ms):
        as_of = day_text(as_of_ms)
        raise GateFailed(f"the training set of {model} as of {as_of} holds too little: {problem}")


def _skew(platform: Platform, model: str, dataset: TrainingSet) -> SkewReport | None:
    """The last skew report, completed by the messages that are missing from the training set's
    values."""
    values = lost(platform, model, dataset.window.from_ms, dataset.window.to_ms)
    for one in values:
        log.warning("the training set of %s: %s", model, one.summary)
    found = last_skew(platform, model)
    return None if found is None else msgspec.structs.replace(found, lost=values)


def check_trains(model: str) -> None:
    """Raises unless the model's folder contains a training program.

    Raises:
        Refused: the folder holds a ready ONNX file.
    """
    if is_ready(model_folder(model)):
        raise Refused(
            f"{model} is a ready ONNX file: there is nothing to train. Put a newer file and its "
            f"golden set into the folder; `mlplatform validate {model}` makes a version of it"
        )


def training_moment(asked_ms: int | None, known_ms: int) -> int:
    """The moment to train as of: the one asked for, or else the end of the known requests.

    The day after the last known one is also allowed: training sets end at midnights, and a moment
    may be given before the first request of its day.

    Raises:
        InputInvalid: the moment is later than that. Labels that had no time to arrive would count
            as matured.
    """
    if asked_ms is None:
        return known_ms
    latest_ms = -(-known_ms // DAY_MS) * DAY_MS + DAY_MS
    if asked_ms > latest_ms:
        asked, known, latest = map(iso_second_text, (asked_ms, known_ms, latest_ms))
        problem = f"{asked} is too late, as the newest data is of {known}"
        wanted = f"wanted: {latest} or earlier, or no value for the present"
        raise InputInvalid("as_of", None, f"{problem}; {wanted}")
    return asked_ms


def bring(
    platform: Platform, model: str, path: Path, author: str, prepared: TrainingInputs
) -> Candidate:
    """Make a candidate from an ONNX file that was trained elsewhere; a refusal is recorded.

    Args:
        path: an ONNX file, or the folder of a bundle.

    Raises:
        NotFound: there is no such file; or there is no champion to take inputs, views, rules and
            reasons from (for a ready file they come from its folder).
        InputInvalid: the file can't be opened safely, the model exceeds the limits for a model from
            outside, or the file name has characters that can't be stored.
    """
    asked = f"validate {plain_files.printable_name(path)} for {model}"
    with _refusals_kept(platform, author, asked):
        origin = f"{plain_files.printable_name(path)}, brought by {author}"
        bundles = platform.settings.home.bundles
        bundles.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_forgotten(bundles)
        with tempfile.TemporaryDirectory(prefix=COPIES, dir=bundles) as copies:
            files = brought_files(path, platform.settings.home, Path(copies))
            try:
                return _candidate(platform, model, files, origin, prepared)
            except ModelRefused as error:
                name = plain_files.printable_name(path)
                raise ModelRefused(f"{name} is refused: {error.problem}") from error


def _remove_forgotten(bundles: Path) -> None:
    """Remove copies of data files that a killed run left behind: they may be very large."""
    for folder in bundles.glob(f"{COPIES}*"):
        if time.time() - folder.stat().st_mtime > FORGOTTEN_S:
            shutil.rmtree(folder, ignore_errors=True)


def judge_brought(
    platform: Platform, model: str, author: str, candidate: Candidate, prepared: TrainingInputs
) -> GateOutcome:
    """Call `validate` for a candidate that somebody brought; a refusal is recorded."""
    with _refusals_kept(platform, author, f"validate {candidate.bundle.origin} for {model}"):
        return validate(model, candidate, prepared)


@contextmanager
def _refusals_kept(platform: Platform, who: str, asked: str) -> Iterator[None]:
    try:
        yield
    except InputInvalid as error:
        refusal = Refusal(platform.clock.wall_ms(), "candidate", who, asked, str(error))
        platform.refusals.keep(refusal)
        raise


def _candidate(
    platform: Platform, model: str, files: ModelFiles, origin: str, prepared: TrainingInputs
) -> Candidate:
    folder = load_folder(model)
    if folder.golden is None and prepared.champion is None:
        raise NotFound(f"{model} has no champion: the first version is trained from its folder")
    base = folder if prepared.champion is None else prepared.champion.bundle
    return candidate_from_onnx(
        files.content,
        folder if folder.golden is not None else base,
        platform.definition(model),
        prepared.dataset,
        bundles=platform.settings.home.bundles,
        origin=cleaned("where the model is from", origin),
        seed=retrain.SEED,
        recent=prepared.recent,
        data=files.data,
    )


def try_folds(
    platform: Platform, model: str, prepared: TrainingInputs, report: Callable[[JobStatus], None]
) -> tuple[FoldFinding, ...]:
    """Fit earlier days and test each fit on the days after them, one job after another. Returns
    nothing if model.yaml asks for a single hold-out. The bundles are removed.

    Raises:
        JobFailed, Refused, Unavailable: for the same reasons as in `fitting.fit`.
    """
    folder = load_folder(model)
    wanted = folds(folder.definition, prepared.dataset.as_of_ms)
    return tuple(_tried(platform, folder, fold, prepared, report) for fold in wanted)


def _tried(
    platform: Platform,
    folder: ModelFolder,
    fold: Fold,
    prepared: TrainingInputs,
    report: Callable[[JobStatus], None],
) -> FoldFinding:
    offline, champion = platform.offline(folder.definition.name), prepared.champion
    join = platform.training_join
    problem = fold_problem(folder, offline, fold)
    if not problem:
        try:
            dataset = retrain.build_dataset(
                folder, offline, as_of_ms=fold.as_of_ms, champion=champion, join=join
            )
            problem = untrainable_fold_reason(folder.definition, dataset)
        except InputInvalid as error:
            problem = str(error)
    if problem:
        return FoldFinding(fold.number, fold.as_of_ms, fold.to_ms, problem=problem)
    with tempfile.TemporaryDirectory(prefix="fold-") as bundles:
        fitted = fitting.fit(platform, dataset, None, report, Path(bundles))
        try:
            known_ms = prepared.dataset.as_of_ms
            rows = later_rows(
                folder, offline, fold, as_of_ms=known_ms, champion=champion, join=join
            )
            tested = folder.definition, fold, fitted, dataset, rows
            return tested_fold(*tested, champion=champion, seed=retrain.SEED)
        finally:
            fitted.model.close()


def validate(
    model: str, candidate: Candidate, prepared: TrainingInputs, folds: Sequence[FoldFinding] = ()
) -> GateOutcome:
    """Judge a candidate by every gate; its model is closed afterwards.

    Args:
        folds: the results of `try_folds`.
    """
    folder = load_folder(model)
    try:
        report = retrain.validate(
            folder,
            candidate,
            prepared.dataset,
            champion=prepared.champion,
            recent=prepared.recent,
            skew=prepared.skew,
            folds=folds,
        )
        report = dataclasses.replace(report, champion_version=prepared.champion_version)
        record = retrain.describe(
            folder, candidate, prepared.dataset, report, champion=prepared.champion
        )
        return GateOutcome(report, record)
    finally:
        candidate.model.close()


def version_of(platform: Platform, model: str, bundle: str) -> Version | None:
    """The version that a bundle was registered as, by its digest; None if there is none."""
    return next((v for v in platform.registry.versions(model) if v.digest == bundle), None)


def register(
    platform: Platform, candidate: Candidate, judged: GateOutcome, *, author: str, reason: str = ""
) -> Version:
    """Register the candidate as a version, whose bundle the store then has.

    Args:
        author: who asked for it, whose answer to its rollout does not count.
        reason: why; kept with the version.

    Raises:
        GateFailed: gates did not pass; the message names them. The registry keeps the report, and
            there is no version to deploy.
        Unavailable: registry or store does not answer; registering again is safe.
    """
    if judged.report.passed:
        platform.bundles.put(candidate.bundle.digest)
    outcome = retrain.register(
        candidate,
        judged.report,
        platform.registry,
        author=author,
        reason=reason,
        record=judged.record,
    )
    if isinstance(outcome, Rejection):
        raise GateFailed("; ".join(outcome.reasons))
    return outcome


@contextmanager
def incident_answer(
    platform: Platform, model: str, incident: str | None, claim: int
) -> Iterator[Callable[[int, str], None]]:
    """Record in a drift incident what the retrain in the block came to; call the yielded function
    with the version, and with why it is no answer (empty if it is one).

    The claim holds for as long as this lasts. A failed gate is recorded as no version. Any other
    error leaves the claim to expire, so that the incident is claimed again.

    Raises:
        StaleFence: another retrain has the claim, or the incident is over.
    """
    made: list[tuple[int, str]] = []

    def keep(version: int, why_no_answer: str) -> None:
        made.append((version, why_no_answer))

    if incident is None:
        yield keep
        return
    lasts_s = load_definition(model).drift.claim_s
    wall_ms = platform.clock.wall_ms
    with claims.renewal(platform.incidents, incident, claim, lasts_s=lasts_s, wall_ms=wall_ms):
        try:
            yield keep
        except GateFailed as failed:
            _answer(platform, incident, claim, None, str(failed))
            raise
        for version, why_no_answer in made:
            answered = None if why_no_answer else version
            note = why_no_answer or f"version {version} was registered"
            _answer(platform, incident, claim, answered, note)


def _answer(platform: Platform, incident: str, claim: int, version: int | None, note: str) -> None:
    now_ms = platform.clock.wall_ms()
    platform.incidents.answer(incident, claim, version=version, note=note, now_ms=now_ms)


def milliseconds(moment: datetime | None) -> int | None:
    """A moment in epoch milliseconds; without a time zone it is read as UTC."""
    if moment is None:
        return None
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return int(aware.timestamp() * 1000)


def brought_files(path: Path, home: Home, copies: Path) -> ModelFiles:
    """Returns an ONNX file, or that of a bundle's folder, with copies of the files that hold its
    weights.

    Raises:
        NotFound: there is no such file.
        InputInvalid: the file, or a file with weights, is not a plain file of this user, is too
            large, or belongs to the platform.
    """
    rule = plain_files.Rule(
        most_bytes=MOST_BYTES, closed=(home.root,), but=(home.bundles, home.demo)
    )
    return model_files(path / MODEL_FILE if path.is_dir() else path, rule, copies=copies)
