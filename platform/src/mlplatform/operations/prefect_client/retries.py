"""Which failures of a task are worth another try."""

from __future__ import annotations

from typing import Any

from mlplatform.runtime.errors import Unavailable


def unavailable(task: Any, run: Any, state: Any) -> bool:
    """A system did not answer; anything else would fail again in the same way.

    Source: Prefect's `retry_condition_fn`.
    """
    try:
        state.result()
    except Unavailable:
        return True
    except Exception:  # noqa: BLE001  # whatever else the task raised is Prefect's to report
        return False
    return False
