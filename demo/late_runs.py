"""What is said of a flow of the demo that did not complete in time: why, and how to go on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from demo.source import MODEL

MOST_REASONS: Final = 3
BUSY: Final = 2.0
"""Processes that wait for a core, for each core; with more, other work is the likely cause."""


def resume_command(model: str) -> str:
    """The command that goes on with a demo of a model."""
    return f"make demo {'' if model == MODEL else f'MODEL={model} '}DEMO_FLAGS=--resume"


def late_here(flow: str, reasons: Sequence[str], *, limit_s: float, model: str) -> str:
    """What is said, by the present load of this machine."""
    load, cores = os.getloadavg()[2], os.cpu_count() or 1
    return late(flow, reasons, limit_s=limit_s, load=load, cores=cores, model=model)


def late(
    flow: str, reasons: Sequence[str], *, limit_s: float, load: float, cores: int, model: str
) -> str:
    """What is said.

    Args:
        reasons: why each run did not complete, the newest last.
        load: the machine's load of the last 15 minutes.
    """
    causes = list(dict.fromkeys(reversed(reasons)))[:MOST_REASONS]
    if load > BUSY * cores:
        causes.append(f"this machine's load was {load:.0f} on {cores} cores: other work slows it")
    why = f" ({'; '.join(causes)})" if causes else ""
    return (
        f"no run of {flow} completed within {limit_s:.0f} s{why}; what is done stays: with less"
        f" beside it, go on with `{resume_command(model)}`, after `mlplatform down` where it was"
        " kept up"
    )
