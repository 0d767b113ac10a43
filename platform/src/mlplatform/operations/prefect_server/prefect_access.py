"""Requests that a logged-in person may send to Prefect's API, by method and path; all others are
forbidden.

Reading, starting a run of a deployment, answering and cancelling a run. Everything that changes
what runs, or what a person is shown, is left to the platform's own processes.

Source: Prefect 3.9 REST API.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Access = Literal["read", "check", "start", "answer", "cancel", "forbidden"]

_ID: Final = r"[0-9A-Za-z-]{1,64}"
_NAME: Final = r"[^/]{1,255}"

_READ_GET: Final = (
    r"health",
    r"hello",
    r"ready",
    r"version",
    r"csrf-token",
    r"admin/(settings|version)",  # Prefect writes stars for secrets
    r"observed-states",
    rf"artifacts/{_NAME}(/latest)?",
    rf"automations/{_ID}",
    rf"automations/related-to/{_NAME}",
    rf"deployments/{_ID}(/schedules|/work_queue_check)?",
    rf"deployments/name/{_NAME}/{_NAME}",
    r"events/filter/next",
    rf"(flow|task)_run_states/({_ID})?",
    rf"flow_runs/{_ID}(/graph|/graph-v2|/logs/download)?",
    rf"flow_runs/{_ID}/input/{_NAME}-(schema|description)",  # not the answers
    rf"flows/{_ID}",
    rf"flows/name/{_NAME}",
    rf"task_runs/{_ID}",
    rf"ui/task_runs/{_ID}",
    rf"work_pools/{_NAME}(/queues/{_NAME})?",
    rf"work_queues/{_ID}(/status)?",
    rf"work_queues/name/{_NAME}",
    rf"(v2/)?concurrency_limits/({_NAME}|tag/{_NAME})",
)
_READ_POST: Final = (
    r"artifacts/(latest/)?(filter|count)",
    r"automations/(filter|count)",
    r"(v2/)?concurrency_limits/filter",
    r"deployments/(filter|count|paginate)",
    r"events/filter",
    rf"events/count-by/{_NAME}",
    r"flow_runs/(filter|count|paginate|history|lateness)",
    r"flows/(filter|count|paginate)",
    r"logs/filter",
    r"saved_searches/filter",
    r"task_runs/(filter|count|paginate|history)",
    r"task_workers/filter",
    r"ui/flow_runs/(count-task-runs|history)",
    r"ui/flows/(count-deployments|next-runs)",
    r"ui/task_runs/(count|dashboard/counts)",
    r"work_pools/(filter|count)",
    rf"work_pools/{_NAME}/(queues/filter|workers/filter|concurrency_status)",
    rf"work_queues/({_ID}/concurrency_status|filter)",
)
_WATCH: Final = (r"events/out", r"logs/out")

_GET: Final = re.compile("|".join(f"(?:{path})" for path in _READ_GET))
_POST: Final = re.compile("|".join(f"(?:{path})" for path in _READ_POST))
_SOCKET: Final = re.compile("|".join(_WATCH))
_START: Final = re.compile(rf"deployments/({_ID})/create_flow_run")
_ANSWER: Final = re.compile(rf"flow_runs/({_ID})/resume")
_CANCEL: Final = re.compile(rf"flow_runs/({_ID})/set_state")
_CHECK: Final = "ui/schemas/validate"
_SCHEDULES: Final = frozenset({"/api/deployments/filter", "/api/flow_runs/filter"})
_API: Final = "/api/"
_SHELL: Final = re.compile(r"/(?!api(/|$))[^\\]*")
"""Paths of pages, scripts and documents, which are the same for every logged-in person."""


def access(method: str, path: str) -> Access:
    """The kind of access that a request needs; `forbidden` if no list contains it.

    Args:
        method: the HTTP method, or `WEBSOCKET`.
        path: the decoded path, as the server routes it.
    """
    if not _is_plain(path):
        return "forbidden"
    if not path.startswith(_API):
        return "read" if method in ("GET", "HEAD") and _SHELL.fullmatch(path) else "forbidden"
    rest = path.removeprefix(_API).removesuffix("/")
    match method:
        case "GET" | "HEAD":
            return "read" if _GET.fullmatch(rest) else "forbidden"
        case "WEBSOCKET":
            return "read" if _SOCKET.fullmatch(rest) else "forbidden"
        case "POST":
            return _posted(rest)
        case _:
            return "forbidden"


def reads_schedules(method: str, path: str) -> bool:
    """Whether a request is one of those by which the page learns of schedules and their runs."""
    return method == "POST" and path in _SCHEDULES


def only_reads(method: str, path: str) -> bool:
    """Whether a request would change nothing if it were let through: pages send many such requests,
    and their refusals are not recorded."""
    asks = path.removesuffix("/").endswith(("/filter", "/count", "/paginate"))
    return method in ("GET", "HEAD", "OPTIONS") or (
        asks if method == "POST" else access(method, path) == "read"
    )


def subject(path: str) -> str:
    """The id of the deployment or run that a `start`, `answer` or `cancel` request names."""
    rest = path.removeprefix(_API).removesuffix("/")
    found = _START.fullmatch(rest) or _ANSWER.fullmatch(rest) or _CANCEL.fullmatch(rest)
    return found[1] if found else ""


def _posted(rest: str) -> Access:
    if _POST.fullmatch(rest):
        return "read"
    if rest == _CHECK:
        return "check"
    if _START.fullmatch(rest):
        return "start"
    if _ANSWER.fullmatch(rest):
        return "answer"
    return "cancel" if _CANCEL.fullmatch(rest) else "forbidden"


def _is_plain(path: str) -> bool:
    """Whether every router reads the path alike: no empty parts, no `.` or `..`, no unprintable
    characters."""
    parts = path.split("/")
    return (
        path.startswith("/")
        and path.isprintable()
        and not any(part in (".", "..") for part in parts)
        and not any(part == "" for part in parts[1:-1])
    )
