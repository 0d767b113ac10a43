"""What an answer of HTTP says: the value that was asked for, or what went wrong, as a type."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import msgspec

from mlplatform_client.answers import Answer
from mlplatform_client.errors import (
    AnswerNotUnderstood,
    CallFailed,
    Conflict,
    Facts,
    InputRefused,
    NotAllowed,
    NotAuthenticated,
    NotExplained,
    NotFound,
    Overloaded,
    Unavailable,
    excerpt,
)
from mlplatform_client.exchange import NoReply, Reply

T = TypeVar("T")
PROBLEM: Final = "urn:mlplatform:problem:"
MOST_DETAIL: Final = 500
REPEATED: Final = frozenset({408, 409, 425, 429, 502, 503, 504})
"""Statuses after which the same request may be answered."""
BEFORE_TAKEN: Final = frozenset({"overloaded", "too-many-connections", "issuer-keys-awaited"})
"""Of the problems with status 503, those that are told before a request is looked into."""

_BY_STATUS: Final[Mapping[int, type[CallFailed]]] = {
    400: InputRefused,
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    405: InputRefused,
    408: Unavailable,
    409: Conflict,
    413: InputRefused,
    415: InputRefused,
    422: InputRefused,
    425: Unavailable,
    429: Overloaded,
    431: InputRefused,
}
_BY_NAME: Final[Mapping[str, type[CallFailed]]] = {
    "bundle-gone": NotExplained,
    "decided-without-model": NotExplained,
    "decision-pending": Unavailable,
    "idempotency-key-reused": Conflict,
    "not-reproduced": NotExplained,
    "overloaded": Overloaded,
    "payload-erased": NotExplained,
    "raw-scores": NotExplained,
    "too-many-connections": Overloaded,
    "unknown-decision": NotFound,
}
_WAYS_OUT: Final[Mapping[type[CallFailed], str]] = {
    InputRefused: "Correct the request: the same one is refused again.",
    NotExplained: "The same request is refused until the cause named here has changed.",
    NotFound: "Check the name or id, and that this key's client asked for the decision.",
    NotAuthenticated: "Give a valid API key; `mlplatform keys create` makes one.",
    NotAllowed: "Use a key whose scopes cover this call (`mlplatform keys create --scope`).",
    AnswerNotUnderstood: "Check that the address is that of a gateway with API v2.",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Problem details of the gateway (RFC 9457)."""

    type: str
    detail: str
    status: int
    field: str | None = None

    @property
    def name(self) -> str:
        return excerpt(self.type.removeprefix(PROBLEM), MOST_DETAIL)


def problem_of(reply: Reply) -> Problem | None:
    """The problem details of an answer, if it has any."""
    if not reply.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        return msgspec.json.decode(reply.body, type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def error_of(name: str, key: str | None, reply: Reply, wall_s: float) -> CallFailed:
    """What an answer that is no success says.

    Args:
        name: of the call.
        wall_s: seconds since 1970, for a Retry-After that names a date.
    """
    problem = problem_of(reply)
    asked_s = retry_after_s(reply.headers.get("retry-after"), wall_s)
    if problem is not None and problem.status == reply.status:
        return error_of_problem(name, key, problem, asked_s)
    return _without_problem(name, key, reply.status, asked_s)


def error_of_problem(
    name: str, key: str | None, problem: Problem, asked_s: float | None = None
) -> CallFailed:
    """What a problem says, of a whole call or of one item of a batch."""
    status = problem.status
    kind = _BY_NAME.get(problem.name) or _by_status(status)
    field = excerpt(problem.field, MOST_DETAIL) if problem.field else None
    of = f"{field}: " if field and field not in problem.detail else ""
    facts = Facts(
        call=name,
        message=f"{of}{excerpt(problem.detail, MOST_DETAIL)} ({status} {problem.name})",
        way_out=_way_out(kind, key, asked_s, is_under_way=status == 409),
        status=status,
        problem=problem.name,
        field=field,
        retry_after_s=asked_s,
        key=key,
    )
    return kind(facts)


def _without_problem(name: str, key: str | None, status: int, asked_s: float | None) -> CallFailed:
    """Of a proxy, or of something that is no gateway at all."""
    kind = _by_status(status)
    if issubclass(kind, InputRefused | Conflict):
        kind = AnswerNotUnderstood
    facts = Facts(
        call=name,
        message=f"status {status} without the gateway's problem details",
        way_out=_way_out(kind, key, asked_s),
        status=status,
        retry_after_s=asked_s,
        key=key,
    )
    return kind(facts)


def may_repeat(error: CallFailed, *, is_repeatable: bool) -> bool:
    """Whether the request of a refusal may be sent again.

    Args:
        is_repeatable: whether it may be where an earlier attempt may have been taken.
    """
    if error.status not in REPEATED or error.problem == "idempotency-key-reused":
        return False
    if is_repeatable:
        return True
    return error.status in (408, 429) or error.problem in BEFORE_TAKEN


def error_without_reply(name: str, key: str | None, outcome: NoReply) -> CallFailed:
    """What it means that no whole answer came."""
    kind: type[CallFailed] = AnswerNotUnderstood if outcome.kind == "oversized" else Unavailable
    way_out = _way_out(kind, key, None)
    if outcome.kind == "oversized":
        way_out = "Ask for less at once, or give `most_bytes`."
    elif key is None and outcome.kind != "unreached":
        way_out = "The gateway may have taken the request all the same."
    facts = Facts(
        call=name, message=excerpt(outcome.message, MOST_DETAIL), way_out=way_out, key=key
    )
    return kind(facts)


def not_understood(name: str, key: str | None, reply: Reply, why: str) -> AnswerNotUnderstood:
    """A success that is no answer to the call."""
    facts = Facts(
        call=name,
        message=f"the answer with status {reply.status} can't be read: {excerpt(why, MOST_DETAIL)}",
        way_out=_WAYS_OUT[AnswerNotUnderstood],
        status=reply.status,
        key=key,
    )
    return AnswerNotUnderstood(facts)


def decoded(name: str, key: str | None, reply: Reply, kind: type[T], status: int = 200) -> T:
    """The body of a success.

    Raises:
        AnswerNotUnderstood: another status, media type or coding, or not that JSON.
    """
    if reply.status != status:
        raise not_understood(name, key, reply, f"the API answers {status}")
    media_type = reply.headers.get("content-type", "")
    if media_type.split(";")[0].strip().lower() != "application/json":
        raise not_understood(name, key, reply, f"it is {media_type or 'of no media type'}")
    if reply.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise not_understood(name, key, reply, "it is encoded, which was not asked for")
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise not_understood(name, key, reply, str(error)) from error


def answer_of(name: str, key: str | None, reply: Reply) -> Answer:
    """The decision of an answer with status 200.

    Raises:
        AnswerNotUnderstood: it is none.
    """
    found = decoded(name, key, reply, Answer)
    is_replayed = reply.headers.get("idempotency-replayed") == "true"
    return msgspec.structs.replace(found, replayed=is_replayed)


def retry_after_s(header: str | None, wall_s: float) -> float | None:
    """What a `Retry-After` asks for, in seconds from now; None where it says nothing readable.

    Source: RFC 9110, section 10.2.3.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall_s)
    except (ValueError, TypeError, OverflowError):
        return None


def _by_status(status: int) -> type[CallFailed]:
    return _BY_STATUS.get(status, Unavailable if 500 <= status < 600 else AnswerNotUnderstood)


def _way_out(
    kind: type[CallFailed], key: str | None, asked_s: float | None, *, is_under_way: bool = False
) -> str:
    if kind in _WAYS_OUT:
        return _WAYS_OUT[kind]
    if kind is Conflict and not is_under_way:
        return f"The key {key!r} belongs to another request: give this one a new idempotency key."
    wait = f"after {asked_s:g} s" if asked_s else "in a moment"
    if key is None:
        return f"Ask again {wait}."
    return (
        f"Ask again {wait} with the idempotency key {key!r}: the request is decided once at most."
    )
