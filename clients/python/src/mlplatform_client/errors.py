"""What can go wrong with a call, one class for each thing that an application can do about it.

CallFailed
├── InputRefused         what was asked is wrong; the same again is refused again
│   ├── NotFound         there is no such model or decision, or it is kept no longer
│   └── NotExplained     nothing explains the decision; `problem` and the message say why
├── NotAuthenticated     the key is missing, wrong, expired or revoked
├── NotAllowed           the scopes of the key do not cover this
├── Conflict             the idempotency key belongs to another request, or to one under way
├── Overloaded           too much is asked, by this client or by all of them
├── Unavailable          nothing answers, or no decision can be made or recorded now
├── DeadlineExceeded     the call's time is over; it may have been decided all the same
└── AnswerNotUnderstood  what answers is no gateway of this API, or its answer is no answer
"""

from __future__ import annotations

from typing import Self

import msgspec


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a failure.

    Args:
        call: what was asked, in words: `score fraud`.
        message: what went wrong.
        way_out: what can be done, as a sentence.
        status: of HTTP; None where no answer came, or nothing was sent.
        problem: the gateway's name for it, stable for programs: `log-unavailable`.
        field: the field, header or argument that is wrong.
        retry_after_s: what the gateway asked to wait, seconds.
        key: the idempotency key, by which the same request may be sent again.
        attempts: how often it was sent.
    """

    call: str
    message: str
    way_out: str
    status: int | None = None
    problem: str | None = None
    field: str | None = None
    retry_after_s: float | None = None
    key: str | None = None
    attempts: int = 0


class CallFailed(Exception):
    """A call that has no answer. Its text says what was asked, what went wrong and the way out."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.facts = facts

    def __str__(self) -> str:
        facts = self.facts
        tried = f" ({facts.attempts} attempts)" if facts.attempts > 1 else ""
        return f"{facts.call}: {facts.message}{tried}. {facts.way_out}"

    @property
    def status(self) -> int | None:
        """The HTTP status; None where no answer came, or nothing was sent."""
        return self.facts.status

    @property
    def problem(self) -> str | None:
        """The gateway's name for what is wrong, stable for programs."""
        return self.facts.problem

    @property
    def field(self) -> str | None:
        """The field, header or argument that is wrong."""
        return self.facts.field

    @property
    def retry_after_s(self) -> float | None:
        """What the gateway asked to wait, seconds."""
        return self.facts.retry_after_s

    @property
    def key(self) -> str | None:
        """The idempotency key, by which the same request may be sent again."""
        return self.facts.key

    @property
    def attempts(self) -> int:
        """How often the request was sent."""
        return self.facts.attempts

    def after(self, attempts: int) -> Self:
        """The same failure, after so many attempts."""
        return type(self)(msgspec.structs.replace(self.facts, attempts=attempts))


class InputRefused(CallFailed):
    """What was asked is wrong; names the field, its value and what is wanted."""


class NotFound(InputRefused):
    """There is no such model or decision for this key, or it is kept no longer."""


class NotExplained(InputRefused):
    """Nothing explains the decision. `problem` says why: `payload-erased`, `bundle-gone`,
    `decided-without-model`, `raw-scores` or `not-reproduced`."""


class NotAuthenticated(CallFailed):
    """The API key or token is missing, wrong, expired or revoked."""


class NotAllowed(CallFailed):
    """The scopes of the API key do not cover this operation on this model."""


class Conflict(CallFailed):
    """The idempotency key belongs to another request, or to one that is being answered."""


class Overloaded(CallFailed):
    """Too much is asked, by this client or by all of them."""


class Unavailable(CallFailed):
    """Nothing answers, or no decision can be made or recorded now."""


class DeadlineExceeded(CallFailed):
    """The call's time is over. Whether it was decided, the same idempotency key tells."""


class AnswerNotUnderstood(CallFailed):
    """What answers is no gateway of this API, or its answer is no answer to what was asked."""


SHOWN = 60


def refused(call: str, name: str, value: object, wanted: str) -> InputRefused:
    """An argument that is wrong; nothing was sent."""
    return refused_as(call, name, excerpt(repr(value), SHOWN), wanted)


def refused_as(call: str, name: str, description: str, wanted: str) -> InputRefused:
    """An argument that is wrong, and is described instead of shown; nothing was sent."""
    message = f"{name} is {description}; wanted: {wanted}"
    return InputRefused(Facts(call=call, message=message, way_out="Nothing was sent.", field=name))


def excerpt(text: str, most: int) -> str:
    """Its beginning, in characters that steer no terminal and break no line of a log."""
    visible = "".join(c if c.isprintable() else "�" for c in text[:most])
    return visible if len(text) <= most else f"{visible}…"
