"""The bundle, which is what rolls out: a model and everything needed to decide with it, under one
digest.

A bundle is a folder of `bundle.json` (canonical JSON, which names every other file with its
SHA-256), `model.onnx` and files with its weights. Nothing in it is code. The gateway and the
predictor read bundles, so this module needs neither scikit-learn nor pandas.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from mlplatform.model.definition import WIDE, InputSpec, are_whole, word_inputs, word_problems
from mlplatform.model.policies.calibration import Calibration, ScoreMap, score_map
from mlplatform.model.policies.classes import ClassChoice
from mlplatform.model.policies.cut_offs import (
    NOWHERE,
    CutOffs,
    RowSegments,
    RowThresholds,
    SegmentThresholds,
    segment_problems,
)
from mlplatform.model.policies.decision_checks import decision_problems
from mlplatform.model.policies.decision_scale import EARLIER, Decision, DecisionScale
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.model.policies.small_model import SmallModel, small_model_problems
from mlplatform.model.profile import Profile
from mlplatform.model.rhythm import SCORE, Rhythm
from mlplatform.model.rules import Reason, Rule
from mlplatform.model.signature_checks import signature_problems
from mlplatform.model.tensors.signature import Signature, Tensors
from mlplatform.model.weights.data_files import DataFile, data_names, name_problem, put
from mlplatform.model.windows.declaration import Window, as_written
from mlplatform.runtime.canonical import NOT_JSON, canonical_json, digest
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.large_files import file_digest, write_new
from mlplatform.runtime.storage.readers import open_as
from mlplatform.runtime.units import MIB

BUNDLE_FILE = "bundle.json"
MODEL_FILE = "model.onnx"
INPUT_NAME = "inputs"
OUTPUT_NAME = "scores"
EXPLAINER_FILE = "contributions.onnx"
CONTRIBUTIONS_NAME = "contributions"
NO_OTHER_FILE = ("session.model_external_initializers_file_folder_path", "/dev/null")
"""Setting of ONNX Runtime's sessions: files that a model names are looked for in a folder that
can't exist, so that none is loaded. Without it a model reads files that lie beside it."""
AS_ONNX = ("session.load_model_format", "ONNX")
"""Setting of ONNX Runtime's sessions: the bytes are ONNX. Without it a mark at byte 4 makes them
the runtime's own format, and a file that is both would score by another model than the one that was
checked."""
AS_THEY_ARE = ("session.disable_prepacking", "1")
"""Setting of ONNX Runtime's sessions: weights are used where they lie in data files, without
copying them into another layout."""
MAX_DESCRIPTION_BYTES = 256 * MIB
MARGIN_TOLERANCE = 1e-4

Link = Literal["logistic", "identity"]


class BundleCorrupt(Corrupt):
    """A bundle folder is incomplete, not a bundle, or does not match its digests."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of `bundle.json`. Unknown and missing keys are errors."""


class Golden(_Part, frozen=True):
    """Rows and the raw scores that the model gave them; a predictor must repeat these."""

    rows: tuple[tuple[float | None, ...], ...]
    scores: tuple[float | tuple[float, ...], ...]
    tolerance: float


class View(_Part, frozen=True, omit_defaults=True):
    """A feature view that the model reads, the longest validity of its values, and the value for a
    feature without one (a feature without an entry is missing to the model)."""

    name: str
    ttl_ms: int
    defaults: dict[str, float] = {}


class AlertBand(_Part, frozen=True):
    """The band in which the share of alerts is expected, and how it was found."""

    low: float
    high: float
    share: float
    how: str


class DataWindow(_Part, frozen=True, omit_defaults=True):
    """The requests behind the bundle: fitted on [from, holdout_from), held out up to `to`; of a
    share (0-1) of the units of assignment."""

    from_ms: int
    holdout_from_ms: int
    gates_from_ms: int
    to_ms: int
    as_of_ms: int
    rows: int
    digest: str
    units_share: float = 1.0


class Attribution(_Part, frozen=True):
    """The method by which each input's share in a score is found.

    `tree_shap`: Shapley values of the margin, which is what the raw score is before its link, by
    the graph in `contributions.onnx`; with `base`, the mean margin, they add up to the margin.
    `reference_values`: how far the raw score falls with the input at its reference value; `why`
    says what stands against TreeSHAP.
    """

    method: Literal["reference_values", "tree_shap"] = "reference_values"
    link: Link = "identity"
    base: float = 0.0
    why: str = ""

    def margin(self, shares: Sequence[float]) -> float:
        """The margin, which is the raw score before its link, from the shares of the inputs."""
        return self.base + math.fsum(shares)

    def adds_up(self, shares: Sequence[float], raw: float) -> bool:
        """Whether shares of the inputs add up to a raw score, within float32's precision; sums of
        large shares have less."""
        score, slope = self.margin(shares), 1.0
        size = 0.1 * math.fsum(map(abs, (self.base, *shares)))
        if self.link == "logistic":
            score = 0.5 + 0.5 * math.tanh(score / 2)
            slope, size = score * (1 - score), 0.0
        allowed = 1e-6 * max(1.0, abs(raw)) + MARGIN_TOLERANCE * max(slope, size)
        return abs(score - raw) <= allowed


class Bundle(_Part, frozen=True, dict=True, omit_defaults=True):
    """Everything that one version decides with.

    `thresholds` are the calibrated scores from which on each outcome of `scale` but the first is
    given.

    What was added later is left out of `content` where it is absent, so that older bundles keep
    their digests.
    """

    model: str
    inputs: tuple[InputSpec, ...]
    calibration: Calibration
    thresholds: dict[str, float]
    reasons: dict[str, Reason]
    rules: tuple[Rule, ...]
    reference: dict[str, float | None]
    golden: Golden
    views: tuple[View, ...]
    profile: Profile
    alert_band: AlertBand
    data: DataWindow
    seed: int
    origin: str
    files: dict[str, str]
    attribution: Attribution = Attribution()
    small_model: SmallModel | None = None
    rhythms: dict[str, Rhythm] | None = None
    """Rhythms of the profile's inputs, and of `score`; None for a bundle from before they
    existed."""
    folder: str = ""
    """Digest of the model folder that fitted it (`model.folders.folder_digest`); empty for a model
    from elsewhere, and for a bundle from before the digest existed."""
    scale: DecisionScale = EARLIER
    vocabularies: dict[str, tuple[str, ...]] = {}
    """The words of each category input, in the order of their places (`model.tensors`)."""
    signature: Signature | None = None
    """The graph's tensors; None for float32 "inputs" [n, inputs], "scores" [n] or [n, classes]."""
    windows: tuple[Window, ...] = ()
    """The windows that its inputs read, as they were declared when it was trained."""
    server: ModelServer | None = None
    """The server that answers for it, with an artefact of its own; None if the platform runs the
    graph."""
    segment_thresholds: tuple[SegmentThresholds, ...] = ()
    """Segments with thresholds in place of `thresholds`; the first in which a row lies counts."""

    @functools.cached_property
    def content(self) -> bytes:
        """The bytes of `bundle.json`, the same whether built here or read back."""
        plain = msgspec.convert(msgspec.to_builtins(self), Bundle)
        return canonical_json(msgspec.to_builtins(plain) | as_written(plain.windows))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of `content`, hexadecimal: the bundle's identity."""
        return digest(self.content)

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(i.name for i in self.inputs)

    @property
    def tensors(self) -> Tensors | None:
        """The form in which its graph takes rows; None for a graph that takes rows as they are."""
        found = self.signature
        if found is None:
            return None
        return Tensors(found, self.input_names, self.vocabularies, classes=self.classes)

    @property
    def classes(self) -> int:
        """Number of probabilities that its graph gives for a row; 0 for one score."""
        return len(self.scale.names) if self.scale.by_class else 0

    @property
    def defaults(self) -> dict[str, float]:
        """Feature → the number in place of a missing value, for features that have one."""
        of_views = {name: value for view in self.views for name, value in view.defaults.items()}
        return of_views | {w.name: w.default for w in self.windows if w.default is not None}

    def calibrate(self, raw: float) -> float:
        """The probability, 0-1, for a raw score of the model; of a model of numbers its number.

        Raises:
            ValueError: the raw score is NaN or infinite.
        """
        return self._score_map.one(raw)

    def calibrate_many(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self._score_map.many(raw)

    @functools.cached_property
    def _score_map(self) -> ScoreMap:
        return score_map(self.scale, self.calibration)

    @functools.cached_property
    def segments(self) -> RowSegments:
        """The function from rows to the segments that have thresholds of their own."""
        return RowSegments(self.segment_thresholds, self.input_names, self.vocabularies)

    def segment(self, row: Sequence[float]) -> str | None:
        """The segment whose thresholds decide a row; None for the bundle's own thresholds."""
        place = self.segments.place(row)
        return None if place == NOWHERE else self.segment_thresholds[place].name

    def row_thresholds(
        self, row: Sequence[float], small: SmallModel | None = None
    ) -> RowThresholds:
        """The thresholds that decide a row, or with a small model those by which it decides."""
        name = self.segment(row)
        if small is not None:
            found = small.thresholds if name is None else small.segment_thresholds[name]
        else:
            own = {segment.name: segment.thresholds for segment in self.segment_thresholds}
            found = self.thresholds if name is None else own[name]
        return RowThresholds(dict(sorted(found.items(), key=lambda begin: begin[1])), name)

    @functools.cached_property
    def cut_offs(self) -> CutOffs:
        """The function from calibrated scores or numbers, and their rows, to decisions."""
        own = [segment.thresholds for segment in self.segment_thresholds]
        return CutOffs(self.scale, self.thresholds, self.segments, own)

    @functools.cached_property
    def choice(self) -> ClassChoice:
        """The function from probabilities to decisions, for classes."""
        return ClassChoice(self.scale)

    @property
    def decider(self) -> CutOffs | ClassChoice:
        """The decider about rows: of scores [n], or of probabilities [n, classes]."""
        return self.choice if self.scale.by_class else self.cut_offs

    def decide(self, score: float, row: Sequence[float]) -> Decision:
        """The decision for a calibrated score and the row of inputs that got it."""
        return self.cut_offs.outcome(score, row)

    def decide_many(
        self, scores: np.ndarray[Any, Any], x: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Decisions as their places among `scale.names`, in int8.

        Args:
            x: the rows of the scores, [n, inputs].
        """
        return self.decider.places(scores, x)


def problems(bundle: Bundle) -> list[str]:
    """The contradictions within a bundle; empty for one that can decide."""
    names = set(bundle.input_names)
    width, single = len(bundle.inputs), [i.name for i in bundle.inputs if i.kind not in WIDE]
    golden, band, small = bundle.golden, bundle.alert_band, bundle.small_model
    rule_inputs = {c.input for rule in bundle.rules for c in rule.when}
    decided = {rule.decision for rule in bundle.rules}
    without_profile = {*(bundle.rhythms or ())} - {*bundle.profile.inputs, SCORE}
    found = {
        **decision_problems(bundle.scale, bundle.calibration, bundle.thresholds),
        **segment_problems(
            bundle.segment_thresholds, bundle.scale, bundle.calibration, single, bundle.vocabularies
        ),
        "small_model is of another task than two outcomes": not (
            small is None or bundle.scale.task == "binary"
        ),
        "scale is not two or more outcomes, the last of them alerts": not bundle.scale.can_decide,
        "rules decide what the scale does not have": not decided <= set(bundle.scale.names),
        "reasons do not cover the inputs": set(bundle.reasons) != names,
        "reference values do not cover the inputs": set(bundle.reference) != names,
        "golden rows and scores do not match the inputs": not (
            golden.rows
            and len(golden.rows) == len(golden.scores)
            and all(len(row) == width for row in golden.rows)
        ),
        "golden scores are not one for each class": not all(
            (len(s) if isinstance(s, tuple) else 0) == bundle.classes for s in golden.scores
        ),
        "rules use inputs that the model does not have": not rule_inputs <= names,
        "profile has inputs that the model does not have": not set(bundle.profile.inputs) <= names,
        "rhythms are of inputs that the profile does not have": bool(without_profile),
        "alert_band is not 0 <= low <= high <= 1": not 0 <= band.low <= band.high <= 1,
        "vocabularies are not those of the categories and texts": set(bundle.vocabularies)
        != {*word_inputs(bundle.inputs)},
        "a text, vector or exact number is not whole, or not in its order": not are_whole(
            bundle.inputs
        ),
        "signature does not fit the inputs": bundle.signature is not None
        and any(signature_problems(bundle.signature, bundle.inputs, bundle.classes)),
        "a vocabulary holds a value that is not a word": any(
            word_problems(bundle.vocabularies, bundle.inputs)
        ),
        f"files lack {MODEL_FILE}": MODEL_FILE not in bundle.files,
        f"attribution and {EXPLAINER_FILE} contradict each other": (
            (bundle.attribution.method == "tree_shap") != (EXPLAINER_FILE in bundle.files)
        ),
        "files name a path outside the bundle": BUNDLE_FILE in bundle.files
        or any(map(name_problem, data_names(bundle.files))),
    }
    if small is not None:
        segments = [segment.name for segment in bundle.segment_thresholds]
        found |= small_model_problems(small, names, bundle.scale, segments)
    return [problem for problem, present in found.items() if present]


def write_bundle(
    bundle: Bundle,
    onnx_bytes: bytes,
    folder: Path,
    explainer: bytes | None = None,
    data: Sequence[DataFile] = (),
) -> str:
    """Write a bundle into a folder that appears whole or not at all. Returns its digest.

    The hashes in `bundle.files` must be those of the contents. A folder that already holds this
    bundle is left alone.

    Args:
        explainer: the content of `contributions.onnx`, where the bundle has one.
        data: files with weights of the graph: copied, or shared with a bundle there.

    Raises:
        BundleCorrupt: the bundle contradicts itself, or the folder holds something else.
    """
    contents = {MODEL_FILE: onnx_bytes}
    if explainer is not None:
        contents[EXPLAINER_FILE] = explainer
    digests = {name: digest(content) for name, content in contents.items()}
    if bundle.files != digests | {file.name: file.sha256 for file in data}:
        raise BundleCorrupt(f"{' and '.join(contents)} differ from the digests in the bundle")
    if wrong := problems(bundle):
        raise BundleCorrupt("; ".join(wrong))
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in contents.items():
            write_new(draft / name, content)
        for file in data:
            if put(file, draft, folder.parent) != file.sha256:
                raise BundleCorrupt(f"{file.path} was changed while it was copied")
        write_new(draft / BUNDLE_FILE, bundle.content)
        appear(draft, folder, bundle.digest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return bundle.digest


def load_bundle(folder: Path, expected: str | None = None, *, data: bool = True) -> Bundle:
    """The bundle in a folder, with every file checked against its digest.

    Args:
        expected: the digest that the bundle must have.
        data: whether data files are checked too, at a second for one or two gigabytes the first
            time that a process does it; False for a caller that runs no graph.

    Raises:
        BundleCorrupt: a file is missing, changed or not understood; the message names it.
    """
    text = _read(folder / BUNDLE_FILE)
    found = digest(text)
    if expected is not None and found != expected:
        raise BundleCorrupt(f"{folder / BUNDLE_FILE} has digest {found}, not {expected}")
    try:
        bundle = msgspec.json.decode(text, type=Bundle)
    except NOT_JSON as error:
        raise BundleCorrupt(f"{folder / BUNDLE_FILE}: {error}") from error
    if bundle.content != text:
        raise BundleCorrupt(f"{folder / BUNDLE_FILE} is not in canonical form")
    if wrong := problems(bundle):
        raise BundleCorrupt(f"{folder / BUNDLE_FILE}: {'; '.join(wrong)}")
    beside = data_names(bundle.files)
    for path, sha256 in ((folder / name, sha256) for name, sha256 in bundle.files.items()):
        if not path.is_file():
            raise BundleCorrupt(f"{path} is missing")
        if (data or path.name not in beside) and file_digest(path) != sha256:
            raise BundleCorrupt(f"{path} was changed: its digest is not {sha256}")
    return bundle


def server_of(folder: Path) -> ModelServer | None:
    """The server that answers for the bundle in a folder; None if the platform runs its graph."""
    return load_bundle(folder, data=False).server


def appear(draft: Path, folder: Path, bundle_digest: str) -> None:
    """Rename a complete draft to its place. An equal bundle that somebody else put there is as
    good.

    Its permissions are those of the folder around it: on a volume, predictors read it as another
    user.

    Raises:
        BundleCorrupt: the folder holds another bundle or something broken.
    """
    open_as(folder.parent, draft)
    try:
        os.rename(draft, folder)
    except OSError:
        if not folder.is_dir():
            raise
        load_bundle(folder, bundle_digest)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_DESCRIPTION_BYTES:
            raise BundleCorrupt(f"{path} is larger than {MAX_DESCRIPTION_BYTES} bytes")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleCorrupt(f"{path} is missing") from error
