"""Client of Prefect's REST API: start runs, answer suspended ones, emit events.

`import prefect` costs 1.7 s and 80 MB; the command line and the demo need only these calls.
Source: Prefect 3.9 REST API.
"""

from __future__ import annotations

import re
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import httpx

from mlplatform.operations.prefect_client import names
from mlplatform.runtime.errors import InputInvalid, NotFound, Refused, Unavailable

FINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})
RAISED = re.compile(r"Flow run encountered an exception: (?P<kind>\w+): (?P<text>.*)", re.DOTALL)
FIELD = re.compile(r".*Validation failed for field '(?P<name>[^']+)'\. Failure reason: (?P<why>.*)")
"""Prefect's answer to a parameter that a deployment's form does not take."""
LINK = re.compile(r"\[[^\]\n]*\]\(\S+\)")
"""The text of an artifact that is a link."""
TRACE_LABEL = "__OTEL_TRACEPARENT"
"""Label of a run with the span that is the parent of the run's own span."""
ANSWER_S = 15.0
TRIES, PAUSE_S = 10, 0.3
SILENCE_LIMIT_S = 60.0
PART = 200
"""Most entries of one answer of Prefect's server."""
MOST_DEPLOYMENTS = 1000
_TO_COME = ["SCHEDULED", "PENDING"]

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of a flow: the name of its class and its message."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One flow run as its server knows it; the truth about a rollout is in the journal.

    Args:
        state_ms: wall time at which its present state began.
        deployment: id of the deployment that it is a run of; empty if it is of none.
        start_ms: wall time at which it started, or is expected to; None if neither is known.
    """

    id: str
    name: str
    state: str
    state_name: str
    message: str
    parameters: Mapping[str, Any]
    state_ms: int
    deployment: str = ""
    start_ms: int | None = None

    @property
    def final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def failure(self) -> Failure | None:
        """The error that the flow raised; None if it raised none."""
        found = RAISED.fullmatch(self.message) if self.state == "FAILED" else None
        return Failure(found["kind"], found["text"]) if found else None


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment.

    Args:
        schedules: its active schedules: a cron line, or "every 60 s"; empty if it is paused.
    """

    id: str
    name: str
    schedules: tuple[str, ...]


class PrefectApi:
    """A client of one Prefect server; it repeats requests that a busy database refused.

    Args:
        timeout_s: seconds to connect, and between two parts of an answer.
        tries: most times that a request is sent which a busy database refuses.
        auth: returns the present user:password, which changes with each start; an empty text: none.
        traceparent: returns the caller's span, under which the runs' spans are put; an empty text:
            none.

    Raises (every method):
        Unavailable: the server does not answer or answers with a 5xx.
        InputInvalid: the server refuses the parameters.
        Refused: the server's gate does not let this identity do that.
        NotFound: no such deployment or run.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = ANSWER_S,
        *,
        tries: int = TRIES,
        auth: Callable[[], str] = str,
        traceparent: Callable[[], str] = str,
    ) -> None:
        self._client = httpx.Client(base_url=f"{url}/api", timeout=timeout_s, auth=_Basic(auth))
        self._tries = tries
        self._deployments: dict[str, str] = {}
        self._traceparent = traceparent

    def _labels(self) -> dict[str, str]:
        traceparent = self._traceparent()
        return {TRACE_LABEL: traceparent} if traceparent else {}

    def start(
        self, flow: str, parameters: Mapping[str, Any], idempotency_key: str | None = None
    ) -> FlowRun:
        """Start a run of a flow; calls with the same idempotency key return the same run.

        Args:
            parameters: the flow's parameters; the model among them selects the deployment.
        """
        body = {
            "name": names.run_name(flow, parameters),
            "parameters": dict(parameters),
            "state": {"type": "SCHEDULED"},
            "idempotency_key": idempotency_key or str(uuid.uuid4()),
            "labels": self._labels(),
        }
        found = self._deployment(flow, str(parameters.get("model")))
        path = f"/deployments/{found}/create_flow_run"
        return _flow_run(self._call("POST", path, body))

    def run(self, run_id: str) -> FlowRun:
        return _flow_run(self._call("GET", f"/flow_runs/{run_id}"))

    def reports(self, run_id: str) -> dict[str, str]:
        """Key → text of the pages that a run has written, without its links, which Prefect keeps as
        Markdown too."""
        body = {
            "artifacts": {"flow_run_id": {"any_": [run_id]}, "type": {"any_": ["markdown"]}},
            "sort": "CREATED_DESC",
        }
        found = self._call("POST", "/artifacts/filter", body)
        return {a["key"]: a["data"] for a in reversed(found) if not LINK.fullmatch(a["data"])}

    def unfinished(self, flow: str, parameters: Mapping[str, Any]) -> list[FlowRun]:
        """Unended runs of a flow with these parameters, newest first."""
        states = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED"]
        body = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": {
                "name": {"any_": [names.run_name(flow, parameters)]},
                "state": {"type": {"any_": states}},
            },
            "sort": "EXPECTED_START_TIME_DESC",
        }
        runs = [_flow_run(r) for r in self._call("POST", "/flow_runs/filter", body)]
        return [run for run in runs if dict(parameters).items() <= dict(run.parameters).items()]

    def suspended(self, flow: str = names.APPROVAL_FLOW) -> list[FlowRun]:
        """Runs of a flow that wait for a person's answer, oldest first."""
        body = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        return [_flow_run(r) for r in self._call("POST", "/flow_runs/filter", body)]

    def deployments(self) -> list[Deployment]:
        """Every deployment, up to `MOST_DEPLOYMENTS`, by name."""
        found: list[Deployment] = []
        while len(found) < MOST_DEPLOYMENTS:
            body = {"sort": "NAME_ASC", "limit": PART, "offset": len(found)}
            part = [_deployment(one) for one in self._call("POST", "/deployments/filter", body)]
            found += part
            if len(part) < PART:
                break
        return found[:MOST_DEPLOYMENTS]

    def newest_runs(self, flows: Sequence[str], most: int) -> list[FlowRun]:
        """Runs of these flows that have begun, the newest first, at most `PART`."""
        states = {"type": {"not_any_": _TO_COME}}
        return self._runs({"name": {"any_": list(flows)}}, states, "START_TIME_DESC", most)

    def newest_run_of(self, deployment: str) -> FlowRun | None:
        """The newest run of a deployment that has begun; None if none has."""
        body = {
            "deployments": {"id": {"any_": [deployment]}},
            "flow_runs": {"state": {"type": {"not_any_": _TO_COME}}},
            "sort": "START_TIME_DESC",
            "limit": 1,
        }
        return next((_flow_run(r) for r in self._call("POST", "/flow_runs/filter", body)), None)

    def next_runs(self, flows: Sequence[str], most: int) -> list[FlowRun]:
        """Runs of these flows that have not begun, the first to come first, at most `PART`."""
        states = {"type": {"any_": _TO_COME}}
        return self._runs({"name": {"any_": list(flows)}}, states, "EXPECTED_START_TIME_ASC", most)

    def _runs(
        self, flows: Mapping[str, Any], states: Mapping[str, Any], sort: str, most: int
    ) -> list[FlowRun]:
        body = {
            "flows": flows, "flow_runs": {"state": states}, "sort": sort, "limit": min(most, PART),
        }  # fmt: skip
        return [_flow_run(run) for run in self._call("POST", "/flow_runs/filter", body)]

    def submit_input(self, run_id: str, run_input: Mapping[str, Any]) -> None:
        """Resume a suspended run with a form's values.

        An invalid form is answered with HTTP 200 and status REJECT: the body decides. Sent again
        after status 503 alone, with which the server says that it has rolled its transaction back.
        """
        body = {"run_input": dict(run_input)}
        result = self._call("POST", f"/flow_runs/{run_id}/resume", body, is_repeatable=False)
        if result.get("status") != "ACCEPT":
            reason = (result.get("details") or {}).get("reason", "no reason given")
            raise InputInvalid(f"flow run {run_id}", None, f"the answer was refused: {reason}")

    def emit(self, event: Mapping[str, Any]) -> None:
        """Send one event; an id that is sent twice starts one run. The payload names the sending
        span if it has a field for it."""
        payload = event.get("payload", {})
        if "traceparent" in payload:
            traceparent = payload["traceparent"] or self._traceparent()
            event = {**event, "payload": {**payload, "traceparent": traceparent}}
        occurred = event.get("occurred") or datetime.now(UTC).isoformat()
        self._call("POST", "/events", [{"related": [], **event, "occurred": occurred}])

    def healthy(self) -> bool:
        try:
            return self._client.get("/health", timeout=2.0).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self._client.close()

    def _deployment(self, flow: str, model: str) -> str:
        name = f"{flow}/{names.deployment(flow, model)}"
        if name not in self._deployments:
            try:
                found = self._call("GET", f"/deployments/name/{name}")
            except NotFound as error:
                raise NotFound(
                    f"Prefect has no deployment {name} yet: flows of a new model are registered"
                    " within a minute, while the platform is up; try again then"
                ) from error
            self._deployments[name] = found["id"]
        return self._deployments[name]

    def _call(self, method: str, path: str, body: Any = None, *, is_repeatable: bool = True) -> Any:
        response = self._request(method, path, body, again=is_repeatable)
        for attempt in range(1, self._tries):
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(PAUSE_S * attempt)  # the server's database was locked for a moment
            response = self._request(method, path, body)
        if response.is_server_error:
            raise Unavailable(f"Prefect answered {response.status_code} to {method} {path}")
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(f"Prefect has nothing at {path}")
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            what = "the answer" if path.endswith("/resume") else path
            raise Refused(f"Prefect's gate refused {what}: {_detail(response)}")
        if response.is_client_error:
            raise _refusal(path, response)
        return response.json() if response.content else None

    def _request(self, method: str, path: str, body: Any, *, again: bool = False) -> httpx.Response:
        """Send a request, and with `again` a second time if the server closes the connection
        without an answer, which may happen to any open connection."""
        try:
            return self._client.request(method, path, json=body)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as dropped:
            if again:
                return self._request(method, path, body)
            raise Unavailable(f"Prefect at {self._client.base_url} does not answer") from dropped
        except httpx.ReadTimeout as late:
            url, limit_s = self._client.base_url, self._client.timeout.read
            raise Unavailable(f"Prefect at {url} did not answer within {limit_s:g} s") from late
        except httpx.HTTPError as error:
            raise Unavailable(f"Prefect at {self._client.base_url} does not answer") from error


class _Basic(httpx.Auth):
    """Basic authentication with credentials that are read anew for every request."""

    def __init__(self, credentials: Callable[[], str]) -> None:
        self._credentials = credentials

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        credentials = self._credentials()
        if credentials:
            request.headers["Authorization"] = f"Basic {b64encode(credentials.encode()).decode()}"
        yield request


class Poller(Generic[Answer]):
    """Asks a server the same question repeatedly and tolerates a limited silence between answers.

    Args:
        limit_s: tolerated seconds without an answer, from the last answer on, or from the
            beginning.
    """

    def __init__(self, ask: Callable[[], Answer], limit_s: float = SILENCE_LIMIT_S) -> None:
        self._ask = ask
        self._limit_s = limit_s
        self._heard_s = time.monotonic()

    def ask(self) -> Answer | None:
        """The answer; None if there is none at present.

        Raises:
            Unavailable: there has been none for as long as the limit.
        """
        try:
            answer = self._ask()
        except Unavailable as error:
            silent_s = time.monotonic() - self._heard_s
            if silent_s < self._limit_s:
                return None
            raise Unavailable(f"no answer for {silent_s:.0f} s") from error
        self._heard_s = time.monotonic()
        return answer


def _refusal(path: str, response: httpx.Response) -> InputInvalid:
    """The error of a request that Prefect refuses; of a run's parameter, with its name."""
    field = FIELD.fullmatch(_detail(response))
    if field is None:
        return InputInvalid(f"Prefect {path}", None, response.text[:500])
    form = "the form of this flow's deployment in Prefect shows what it takes"
    return InputInvalid(field["name"], None, f"{field['why']}; {form}")


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return str(response.status_code)


def _flow_run(data: Mapping[str, Any]) -> FlowRun:
    state = data.get("state") or {}
    return FlowRun(
        id=data["id"],
        name=data["name"],
        state=state.get("type", "PENDING"),
        state_name=state.get("name", ""),
        message=state.get("message") or "",
        parameters=data.get("parameters") or {},
        state_ms=_milliseconds(state.get("timestamp")),
        deployment=data.get("deployment_id") or "",
        start_ms=_milliseconds(data.get("start_time") or data.get("expected_start_time")) or None,
    )


def _deployment(data: Mapping[str, Any]) -> Deployment:
    schedules = [] if data.get("paused") else data.get("schedules") or []
    active = [one["schedule"] for one in schedules if one.get("active")]
    return Deployment(data["id"], data["name"], tuple(map(_schedule_text, active)))


def _schedule_text(schedule: Mapping[str, Any]) -> str:
    if "cron" in schedule:
        return f"{schedule['cron']} {schedule.get('timezone') or 'UTC'}"
    if "interval" in schedule:
        return f"every {schedule['interval']:g} s"
    return "by a rule"


def _milliseconds(timestamp: str | None) -> int:
    if timestamp is None:
        return 0
    return int(datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp() * 1000)
