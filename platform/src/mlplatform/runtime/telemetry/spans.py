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
        start_s, end_s: times on the monotonic clock.
        attributes: attribute → value; an attribute without a value is left out.
        is_error: whether the work failed, as this process judges it.
        links: spans from which the work came, if it waited in between.
        of: the process that did the work; None: the process that sends the span.
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
        has_remote_parent: whether the caller's span is the first span's parent.
        is_spare: whether it is one of many similar traces, as in an overload, which are dropped
            first.
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
