"""A gateway that is killed or frozen at a stage of its first request with a key.

    mortal_gateway.py STAGE SIGNAL [options of a gateway]

The stages are in their order: `claimed`, `handed-in` (its record is with the commit and not
written), `committed`, `settled` (its answer is not sent). The signal is KILL or STOP.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from mlplatform.decisions.log.commit import AsyncGroupCommit
from mlplatform.process import main
from mlplatform.scoring.key_claims.shared_keys import KeyHold, SharedKeys
from mlplatform.scoring.request.recording import Recorder

STAGES: Final = ("claimed", "handed-in", "committed", "settled")
KILL_S: Final = 10.0


class Death:
    """A signal that this process sends itself once."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self._is_over = False

    def come(self) -> None:
        """SIGKILL ends the process here, as a power cut would; SIGSTOP until it is continued."""
        if self._is_over:
            return
        self._is_over = True
        os.kill(os.getpid(), self._number)
        if self._number == signal.SIGKILL:
            time.sleep(KILL_S)


def after(of: type, name: str, death: Death, when: Callable[[Any], bool]) -> None:
    """Have the death come once an asynchronous method has such a result."""
    whole = getattr(of, name)

    async def mortal(*args: Any, **named: Any) -> Any:
        found = await whole(*args, **named)
        if when(found):
            death.come()
        return found

    setattr(of, name, mortal)


def before(of: type, name: str, death: Death) -> None:
    """Have the death come before a method is carried out."""
    whole = getattr(of, name)

    def mortal(*args: Any, **named: Any) -> Any:
        death.come()
        return whole(*args, **named)

    setattr(of, name, mortal)


def prepare(stage: str, death: Death) -> None:
    """Have the death come at a stage."""
    match stage:
        case "claimed":
            after(SharedKeys, "hold", death, lambda found: isinstance(found, KeyHold))
        case "handed-in":
            before(AsyncGroupCommit, "submit", death)
        case "committed":
            after(Recorder, "append", death, lambda found: True)
        case "settled":
            after(KeyHold, "settle", death, lambda found: True)
        case _:
            sys.exit(f"no stage {stage}; there are {', '.join(STAGES)}")


if __name__ == "__main__":
    prepare(sys.argv[1], Death(signal.Signals[f"SIG{sys.argv[2]}"]))
    main(["gateway", *sys.argv[3:]])
