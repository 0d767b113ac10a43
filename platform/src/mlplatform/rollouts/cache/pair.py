"""One pair of a shadow phase: a champion's decision, the challenger's copy of it, and the last
label."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.verdicts.basis import OutcomeBasis
from mlplatform.rollouts.verdicts.facts import Flags

HIDES, RIGHT, COPY_RIGHT = 1, 2, 4
NO_LABEL: Final = -1
PAIR: Final = np.dtype(
    [
        *((name, "<i8") for name in ("event_ms", "seq", "unit", "arrived_ms")),
        *((name, "<f8") for name in ("score", "copy", "chance", "truth")),
        ("writer", "<u2"),
        ("label", "i1"),
        ("flags", "u1"),
    ]
)
"""The columns of a pair. `score` is the champion's score, `copy` the challenger's. `chance` is the
propensity of the draw that could show the pair's outcome, 0 without a draw. `writer` is the
writer's place in the file's list of writers. `label` is the last label, -1 for none; it arrived at
`arrived_ms`. For a model of classes or numbers `label` is 0 for any class or number, and `truth` is
that number. `flags` are the constants above: whether the champion's decision hides the outcome, and
which arms decided the class of the label."""
Pairs = npt.NDArray[Any]
PACKED: Final = struct.Struct("<4q4dHbB")
"""Struct format of one pair. It packs several times as fast as `PAIR`."""


def pairs_of(data: Iterable[bytes]) -> Pairs:
    """The pairs in these packed rows."""
    return np.frombuffer(b"".join(data), dtype=PAIR)


def labelled(rows: Pairs) -> Flags:
    """Whether each pair has a label."""
    return np.asarray(rows["label"] != NO_LABEL)


def is_drawn(rows: Pairs) -> Flags:
    """Whether a draw has shown or hidden each pair's outcome."""
    return np.asarray((rows["chance"] > 0) & (rows["chance"] < 1))


def outcome_seen(rows: Pairs) -> Flags:
    """Whether each pair's outcome is known, or may still become known."""
    hidden = (rows["flags"] & HIDES) > 0
    return np.asarray(~hidden | (labelled(rows) & (rows["chance"] == 0.0)))


def immature(rows: Pairs, basis: OutcomeBasis) -> Flags:
    """Whether each pair has no label yet and may still get one."""
    young = basis.age_ms(rows["event_ms"]) < basis.maturity_ms
    return np.asarray(outcome_seen(rows) & ~labelled(rows) & young)
