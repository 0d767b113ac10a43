"""Reasons of one score: merged by code, within a deadline, beside the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import msgspec
import pytest

from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.definition import InputSpec
from mlplatform.model.rules import Reason
from mlplatform.scoring.arms import reasons
from mlplatform.scoring.arms.reasons import (
    Explainer,
    NotExplained,
    codes,
    drivers,
    ordinary_row,
    readable_inputs,
    reason_inputs,
    vector_places,
    without_each,
)
from support.onnx_bundles import INPUTS, sigmoid_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    sigmoid_bundle(tmp_path / "bundle")
    return load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("contributions", "expected"),
    [
        pytest.param([0.1, 0.7, 0.4], ["HOUR", "NIGHT"], id="largest first, two at most"),
        pytest.param([-0.2, 0.1, 0.0], ["HOUR"], id="what lowers the score is no reason"),
        pytest.param([0.0, 0.0, -1.0], [], id="nothing raised it"),
    ],
)
def test_reasons_are_what_raised_the_score(
    bundle: Bundle, contributions: list[float], expected: list[str]
) -> None:
    assert [d.reason.code for d in drivers(bundle, contributions, 2)] == expected
    assert codes(reason_inputs(bundle), contributions, 2) == expected


def test_inputs_that_share_a_code_are_one_reason(bundle: Bundle) -> None:
    shared = {**bundle.reasons, INPUTS[2]: bundle.reasons[INPUTS[1]]}
    merged = msgspec.structs.replace(bundle, reasons=shared)
    first, second = drivers(merged, [0.5, 0.3, 0.4])
    assert (first.reason.code, first.inputs) == ("HOUR", ("night", "hour"))
    assert first.contribution == pytest.approx(0.7)
    assert second.inputs == ("amount",)
    assert [d.inputs for d in drivers(merged, [0.2, 0.5, -0.4])] == [("amount",), ("hour",)]
    assert codes(reason_inputs(merged), [0.5, 0.3, 0.4]) == ["HOUR", "AMOUNT"]
    assert codes(reason_inputs(merged), [0.1, 0.5, -0.4]) == ["AMOUNT", "HOUR"]


def test_of_reasons_that_are_as_strong_the_one_of_the_first_input_comes_first(
    bundle: Bundle,
) -> None:
    assert codes(reason_inputs(bundle), [0.2, 0.4, 0.4]) == ["HOUR", "NIGHT", "AMOUNT"]
    assert codes(reason_inputs(bundle), [0.4, 0.4, 0.4], 2) == ["AMOUNT", "HOUR"]


def test_a_vector_is_one_reason_and_is_made_ordinary_as_a_whole(bundle: Bundle) -> None:
    names = ("amount", "face.v3.1", "face.v3.2", "face.v3.3", "hour")
    kinds = ("field", "vector", "vector", "vector", "hour_of_day")
    face = Reason(code="FACE", customer="face", analyst="face")
    both = msgspec.structs.replace(
        bundle,
        inputs=tuple(InputSpec(name=n, kind=k) for n, k in zip(names, kinds, strict=True)),
        reasons={n: bundle.reasons.get(n, face) for n in names},
        reference={"amount": 9.0, **dict.fromkeys(names[1:4], 0.5), "hour": None},
    )
    row, places = [1.0, 2.0, 3.0, 6.0, 5.0], vector_places(both)
    amount, vector, hour = without_each(row, ordinary_row(both), places)
    assert amount == [9.0, 2.0, 3.0, 6.0, 5.0]
    assert vector == [1.0, 0.5, 0.5, 0.5, 5.0]
    assert hour[:4] == row[:4]
    first, second = drivers(both, [0.1, 0.3, -0.2])
    assert (first.reason, first.contribution, first.inputs) == (face, 0.3, ("face.v3.1",))
    assert second.reason.code == "AMOUNT"
    shown = readable_inputs(both, row)["face.v3.1"]
    assert (shown.name, shown.value) == ("face", "3 numbers, norm 7")
    assert shown.ordinary == "3 numbers, norm 0.866"
    assert readable_inputs(both, row)["hour"].ordinary is None
    assert vector_places(bundle) == ()


async def test_a_slow_explanation_ends_at_its_deadline_and_holds_nobody_up() -> None:
    release, began = threading.Event(), time.monotonic()
    slow = Explainer(lambda row, raw: [1.0] if release.wait(5) else [])
    with pytest.raises(NotExplained, match="deadline"):
        await slow.explain([0.0], 0.5, began + 0.05)
    assert time.monotonic() - began < 2
    release.set()
    assert await slow.explain([0.0], 0.5, time.monotonic() + 5) == [1.0]
    slow.close()


async def test_more_than_can_be_explained_in_time_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reasons, "MOST_WAITING", 2)
    release = threading.Event()
    slow = Explainer(lambda row, raw: [float(release.wait(5))])
    until_s = time.monotonic() + 5
    tasks = [asyncio.create_task(slow.explain([0.0], 0.5, until_s)) for _ in range(3)]
    with pytest.raises(NotExplained, match="queue_full"):
        await tasks[2]
    release.set()
    assert await asyncio.gather(*tasks[:2]) == [[1.0], [1.0]]
    slow.close()
