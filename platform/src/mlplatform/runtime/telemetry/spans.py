"""Spans as plain values: work of a process that is over, by the names of signals.py.

In an overload they are made for thousands of requests a second, hence msgspec.Struct.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from mlplatform.runtime.telemetry.signals import Attribute, Process, SpanKind

Value = str | int | float
Attributes = Mapping[Attribute, Value | None]


class Link(NamedTuple):
    """A span of another trace that this work goes back to."""

    trace_id: str
    span_id: str


class ProcessIdentity(NamedTuple):
    """The process of a span: its kind and its name."""

    process: Process
    instance: str


class Span(msgspec.Struct, frozen=True):
    """A piece of work that is over.

    Args:
        start_s, end_s: on the monotonic clock.
        attributes: those without a value are left out.
        is_error: whether the work failed, by this process's own account.
        links: where the work came from, if it waited in between.
        of: whose work it was; None: of the process that sends it.
    """

    kind: SpanKind
    name: str
    span_id: str
    parent_id: str | None
    start_s: float
    end_s: float
    attributes: Attributes = {}
    is_error: bool = False
    links: tuple[Link, ...] = ()
    of: ProcessIdentity | None = None


class Trace(msgspec.Struct, frozen=True):
    """The spans of one request.

    Args:
        has_remote_parent: whether the first span's parent is the caller's.
        is_spare: one of many alike, as all are slow in an overload; it gives way to what is not.
    """

    trace_id: str
    spans: tuple[Span, ...]
    has_remote_parent: bool = False
    is_spare: bool = False


def new_span_id() -> str:
    """A new span id: 16 hexadecimal digits, not all zero; a repeat is unlikely."""
    return f"{random.getrandbits(64) or 1:016x}"


def resource_of(identity: ProcessIdentity) -> dict[str, str]:
    """The attributes by which backends know a process.

    Source: OpenTelemetry semantic conventions, service.
    """
    return {
        "service.name": f"mlplatform-{identity.process}",
        "service.instance.id": identity.instance,
    }
