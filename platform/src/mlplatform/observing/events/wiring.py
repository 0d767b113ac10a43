"""Wiring of the process `events`, and of the command that tries a receiver."""

from __future__ import annotations

from mlplatform.observing.events.sender import HttpSender, Sender


def sender() -> Sender:
    """The adapter that sends an event to its receiver."""
    return HttpSender()
