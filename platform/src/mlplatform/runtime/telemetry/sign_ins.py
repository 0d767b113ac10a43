"""Sign-ins to a page and sign-outs, with proof and peer: a file of bounded size."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, Literal

import msgspec

from mlplatform.runtime.storage.files import append_lines
from mlplatform.runtime.telemetry.retention import Retention, is_full, rotate
from mlplatform.runtime.units import MIB

KEPT: Final = Retention(4 * MIB, 2)
FILE: Final = "sign-ins.jsonl"

log = logging.getLogger(__name__)


class SignInEvent(msgspec.Struct, frozen=True):
    """One sign-in or sign-out.

    Args:
        wall_ms: when it happened, epoch milliseconds.
        name: the person's name on the platform.
        proof: `key ID`, `page token`, or the issuer and subject of an identity provider.
        peer: network address of the browser, as the kernel or the connection gives it.
    """

    wall_ms: int
    what: Literal["in", "out"]
    name: str
    proof: str
    peer: str


class SignIns:
    """The sign-ins of one home. Storing one never fails, although a disk may be full or a home
    read-only.

    Args:
        folder: the folder `Home.audit`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE

    def keep(self, event: SignInEvent) -> None:
        """Write an event to the log and to the file."""
        log.info("%s has signed %s from %s (%s)", event.name, event.what, event.peer, event.proof)
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_full(self._file, KEPT):
                rotate(self._file, KEPT)
            append_lines(self._file, msgspec.json.encode(event) + b"\n")
        except OSError as error:
            log.warning("sign-ins are not written to %s: %s", self._file, error.strerror)
