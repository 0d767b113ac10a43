"""Spans as plain values: what a process says of work that is over, by the names of signals.py."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlplatform.telemetry.signals import Attribute, SpanKind

Value = str | int | float
Attributes = Mapping[Attribute, Value | None]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of work that is over.

    Args:
        start_s, end_s: on the monotonic clock.
        attributes: those without a value are left out.
        is_error: whether the work failed, by this process's own account.
    """

    kind: SpanKind
    name: str
    span_id: str
    parent_id: str | None
    start_s: float
    end_s: float
    attributes: Attributes = field(default_factory=dict)
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of one request.

    Args:
        has_remote_parent: whether the first span's parent is the caller's.
    """

    trace_id: str
    spans: tuple[Span, ...]
    has_remote_parent: bool = False


def new_span_id() -> str:
    """16 hexadecimal digits, not all of them zero; they need only be unlikely to meet again."""
    return f"{random.randrange(1, 1 << 64):016x}"  # noqa: S311
