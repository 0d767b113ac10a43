"""`POST /api/v2/features/VIEW`: values of an external view, pushed by applications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlplatform.runtime.http.messages import JSON, Reply
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.admission.clients import way_to_scope
from mlplatform.scoring.admission.gate import AdmissionGate
from mlplatform.scoring.api.http import JSON_TYPE, SHOWN, Endpoint, Request
from mlplatform.scoring.api.openapi_parts import (
    POST_STATUSES,
    Json,
    key_header,
    post,
    priority_header,
    ref,
    replayed_header,
)
from mlplatform.scoring.api.reference import examples
from mlplatform.scoring.api.scoring_api import REPLAYED
from mlplatform.scoring.api.versions import LATEST
from mlplatform.scoring.pushes.pushes import FeaturePushes, PushAnswer, PushTarget
from mlplatform.scoring.pushes.rows import RowsBody
from mlplatform.scoring.request.answers import encode
from mlplatform.scoring.request.payloads import idempotency_key
from mlplatform.scoring.request.scoring import Scoring

ROOT: Final = f"/api/{LATEST.name}/features"
MOST_NAME: Final = 64
Bodies = Mapping[str, Sequence[RowsBody]]
"""View → the form of its rows, for each model that has the view."""
STATUSES: Final = (*POST_STATUSES, 404)


def endpoints(
    pushes: FeaturePushes, gate: AdmissionGate, models: Mapping[str, Scoring]
) -> dict[str, Endpoint]:
    """Path → its endpoint; one path stands for all views."""

    def is_read(target: PushTarget) -> bool:
        scoring = models.get(target.model)
        champion = None if scoring is None else scoring.live.current.champion
        views = () if champion is None else champion.bundle.views
        return any(view.name == target.view.name for view in views)

    async def push(request: Request) -> Reply:
        view = request.path.removeprefix(f"{ROOT}/")
        targets = pushes.targets.get(view)
        if targets is None:
            detail = f"there is no external view {view[:MOST_NAME]!r}; {SHOWN}"
            raise Problem(404, "unknown-view", detail)
        targets = pushes.accepting(targets, is_read)
        assert request.admitted is not None
        client = request.admitted.client
        for target in targets:
            if not client.may(target.model, "push"):
                has = f"model {target.model!r}, which has {view}"
                way = way_to_scope(client.name, "push", target.model)
                detail = f"{client.name} has no scope push on {has}; {way}"
                raise Problem(403, "forbidden", detail, field="Authorization")
        key = idempotency_key(request.headers.get(b"idempotency-key"))
        response = await pushes.push(targets, client.name, key, await request.body())
        gate.charge(request.admitted, response.answer.rows - 1)
        return Reply(encode(response.answer), [JSON, REPLAYED] if response.replayed else [JSON])

    answered = Endpoint(
        "push", ("POST",), push, takes=(JSON_TYPE,), scope="push", headers=LATEST.lines
    )
    return {f"{ROOT}/*": answered}


def types_used(bodies: Bodies) -> list[Any]:
    """The types to which the paths refer."""
    if not bodies:
        return []
    found = [kind for group in bodies.values() for body in group[:1] for kind in body.types]
    return [PushAnswer, *found]


def paths(bodies: Bodies) -> Json:
    """A path for each view; a view of several models is described as the first of them has it."""
    return {f"{ROOT}/{view}": _path(view, group[0]) for view, group in bodies.items()}


def _path(view: str, body: RowsBody) -> Json:
    _, push = body.types
    return post(
        f"push_{view}",
        f"Values of the view {view}, owned by {body.owner}. All rows are taken or "
        "none. When this answers, they are durable, requests read them, and training joins them "
        "from then on. Every feature has a value or null.",
        parameters=[key_header(), priority_header()],
        body=ref(push.__name__),
        example=examples.push(body),
        answer=ref("PushAnswer"),
        statuses=STATUSES,
        headers=replayed_header(),
    )
