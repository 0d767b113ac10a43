"""The benchmarks' model: 300 trees of 63 leaves, as ONNX and as a bundle of the platform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.explainer import make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.onnx.sklearn import FittedClassifier as Fitted
from mlplatform.model.bundle import (
    EXPLAINER_FILE,
    MODEL_FILE,
    AlertBand,
    Bundle,
    DataWindow,
    Golden,
    View,
    write_bundle,
)
from mlplatform.model.definition import InputSpec
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.model.profile import Column, Profile
from mlplatform.model.rules import Reason, parse_reasons, parse_rules
from mlplatform.model.windows.declaration import Window
from mlplatform.runtime.canonical import digest

TREES, LEAVES, ROWS, SEED = 300, 63, 20_000, 7
ADVERSE_SHARE = 0.01
MODEL = "fraud"


def trees(width: int) -> tuple[bytes, NDArray[np.float32]]:
    """The ONNX file and the rows that it was fitted on."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(ROWS, width)).astype(np.float32)
    y = (x[:, 0] * x[:, -1] + np.abs(x[:, -2]) + rng.normal(size=ROWS) > 1.5).astype(np.int8)
    classifier = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=LEAVES, min_samples_leaf=5, random_state=SEED
    )
    classifier.fit(x, y)
    return Fitted(classifier, width).onnx(), x


def plain_bundle(content: bytes, x: NDArray[np.float32], folder: Path) -> str:
    """A bundle of these trees with as many inputs as they take, for a predictor alone."""
    names = [f"f{i:02d}" for i in range(x.shape[1])]
    inputs = tuple(InputSpec(name=name, kind="field", of=name) for name in names)
    reasons = {n: Reason(code=n.upper(), customer=n, analyst=n) for n in names}
    return _write(content, x, folder, inputs, reasons, (), ())


def fraud_bundle(content: bytes, x: NDArray[np.float32], folder: Path) -> str:
    """A bundle of these trees as a version of the shipped model, for the whole path."""
    definition, source = load_definition(MODEL), model_folder(MODEL)
    names = [i.name for i in definition.inputs]
    reasons = dict(
        parse_reasons((source / "reasons.yaml").read_text(), source="reasons", inputs=names)
    )
    rules = parse_rules(
        (source / "rules.yaml").read_text(), source="rules", inputs=names, decisions=EARLIER.names
    )
    views = tuple(View(name=v.name, ttl_ms=v.ttl_ms) for v in load_views(source))
    return _write(content, x, folder, definition.inputs, reasons, rules, views, definition.windows)


def _write(
    content: bytes,
    x: NDArray[np.float32],
    folder: Path,
    inputs: tuple[InputSpec, ...],
    reasons: dict[str, Reason],
    rules: Any,
    views: tuple[View, ...],
    windows: tuple[Window, ...] = (),
) -> str:
    names = [i.name for i in inputs]
    model = OnnxFile(content, inputs=x.shape[1])
    scores = model.scores(x)
    review, decline = np.quantile(scores, [1 - ADVERSE_SHARE, 1 - ADVERSE_SHARE / 4])
    explainer = make_explainer(content, model, background=x, rows=x[:256])
    files = {MODEL_FILE: digest(content)}
    if explainer.content is not None:
        files[EXPLAINER_FILE] = digest(explainer.content)
    flat = Column((1.0,), (0.5, 0.5), (0.5,), 0.5, 0.2, 0.0)
    bundle = Bundle(
        model=MODEL,
        inputs=inputs,
        calibration=Calibration(x=(0.0, 1.0), y=(0.0, 1.0)),
        thresholds={"review": float(review), "decline": float(decline)},
        reasons=reasons,
        rules=rules,
        reference=dict.fromkeys(names, 0.0),
        golden=Golden(
            rows=tuple(tuple(map(float, row)) for row in x[:8]),
            scores=tuple(map(float, scores[:8])),
            tolerance=1e-4,
        ),
        views=views,
        windows=windows,
        profile=Profile(
            rows=100, units=50, inputs=dict.fromkeys(names, flat), score=flat, alert_share=0.01
        ),
        alert_band=AlertBand(low=0.0, high=1.0, share=0.01, how="benchmark"),
        data=DataWindow(
            from_ms=0, holdout_from_ms=1, gates_from_ms=2, to_ms=3, as_of_ms=4, rows=100, digest="0"
        ),
        seed=SEED,
        origin="benchmark",
        files=files,
        attribution=explainer.attribution,
    )
    return write_bundle(bundle, content, folder, explainer.content)
