"""The table of API versions, its headers, and one answer in the shape of each version."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from mlplatform.scoring.api.scoring_api import unknown
from mlplatform.scoring.api.shapes import SHAPES, TYPES
from mlplatform.scoring.api.versions import LATEST, VERSIONS, ApiVersion, by_name
from mlplatform.scoring.request.answers import ReasonInfo, ScoreBody, encode

RETIRING = [v for v in VERSIONS if v.retirement is not None]
ANSWER = ScoreBody(
    decision="review",
    score=0.6,
    reasons=[ReasonInfo("AMOUNT", "The amount is unusual.")],
    model_version=4,
    bundle="b" * 64,
    route="challenger",
    answered_by="champion",
    generation=7,
    decision_id="d1",
    degraded=True,
    degraded_reason="deadline",
    reasons_omitted=None,
)


@pytest.mark.parametrize("version", RETIRING, ids=lambda v: v.name)
def test_a_deprecated_version_lives_three_months_more_and_has_a_living_successor(
    version: ApiVersion,
) -> None:
    retirement = version.retirement
    assert retirement is not None
    assert retirement.sunset - retirement.deprecated >= timedelta(days=92)
    successor = by_name(retirement.successor).retirement
    assert successor is None or successor.sunset > retirement.sunset


@pytest.mark.parametrize("version", RETIRING, ids=lambda v: v.name)
def test_the_headers_say_what_the_table_says(version: ApiVersion) -> None:
    headers, retirement = dict(version.headers), version.retirement
    assert retirement is not None
    deprecated = datetime.fromtimestamp(int(headers[b"deprecation"].removeprefix(b"@")), UTC)
    assert deprecated.date() == retirement.deprecated
    assert parsedate_to_datetime(headers[b"sunset"].decode()).date() == retirement.sunset
    assert f"</openapi/{retirement.successor}.json>" in headers[b"link"].decode()


def test_the_latest_version_says_nothing_of_an_end() -> None:
    assert LATEST.headers == ()


def test_every_version_has_a_shape() -> None:
    names = {v.name for v in VERSIONS}
    assert set(SHAPES) == set(TYPES) == names


def test_v1_shows_the_stored_answer_and_v2_groups_it() -> None:
    stored = encode(ANSWER)
    assert SHAPES["v1"](stored) == stored
    assert json.loads(SHAPES["v2"](stored)) == {
        "decision_id": "d1",
        "decision": "review",
        "score": 0.6,
        "reasons": [{"code": "AMOUNT", "text": "The amount is unusual."}],
        "reasons_omitted": None,
        "answered_by": "champion",
        "model": {"version": 4, "bundle": "b" * 64},
        "route": {"arm": "challenger", "generation": 7},
        "degraded": {"reason": "deadline"},
        "feature_gaps": None,
    }


def test_a_safe_default_has_no_model_in_v2() -> None:
    stored = encode(
        ScoreBody(
            decision="review",
            score=None,
            reasons=[],
            model_version=None,
            bundle=None,
            route="champion",
            answered_by="default",
            generation=1,
            decision_id="d2",
            degraded=False,
            degraded_reason=None,
            reasons_omitted=None,
        )
    )
    shaped = json.loads(SHAPES["v2"](stored))
    assert shaped["model"] is shaped["degraded"] is shaped["score"] is None


def test_a_model_that_takes_no_request_for_later_says_which_key_enables_it() -> None:
    models: dict[str, Any] = {"fraud": object()}
    found = unknown("/api/v1/models/fraud/score:async", models)
    assert (found.status, found.name) == (404, "unknown-path")
    assert "`async` in its model.yaml enables it" in str(found)
    assert "there is no model" in str(unknown("/api/v1/models/other/score:async", models))
