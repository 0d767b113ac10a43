"""A gateway that kills itself at a stage of its first request: `mortal_gateway.py STAGE ...`.

The stages of a request with a key are in their order: `claimed`, `handed-in` (its record is with the
commit and not written), `committed`, `settled` (its answer is not sent).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from mlplatform.decisions.log.commit import AsyncGroupCommit
from mlplatform.process import main
from mlplatform.scoring.key_claims.shared_keys import KeyHold, SharedKeys
from mlplatform.scoring.request.recording import Recorder

STAGES = ("claimed", "handed-in", "committed", "settled")


def die() -> None:
    """As a power cut would: SIGKILL, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


def arm(stage: str) -> None:
    """Kill this process once a request reaches the stage."""
    match stage:
        case "claimed":
            hold = SharedKeys.hold

            async def claimed(*args: Any, **named: Any) -> Any:
                found = await hold(*args, **named)
                if isinstance(found, KeyHold):
                    die()
                return found

            SharedKeys.hold = claimed  # type: ignore[method-assign]
        case "handed-in":

            def handed_in(*args: Any, **named: Any) -> Any:
                die()

            AsyncGroupCommit.submit = handed_in  # type: ignore[method-assign]
        case "committed":
            append = Recorder.append

            async def committed(*args: Any, **named: Any) -> Any:
                await append(*args, **named)
                die()

            Recorder.append = committed  # type: ignore[method-assign]
        case "settled":
            settle = KeyHold.settle

            async def settled(*args: Any, **named: Any) -> Any:
                await settle(*args, **named)
                die()

            KeyHold.settle = settled  # type: ignore[method-assign]
        case _:
            sys.exit(f"no stage {stage}: {', '.join(STAGES)}")


if __name__ == "__main__":
    arm(sys.argv[1])
    main(["gateway", *sys.argv[2:]])
