"""Retries of a flow's tasks: which failures are worth another try."""

from __future__ import annotations

from typing import Any

from mlplatform.runtime.errors import Unavailable


def unavailable(task: Any, run: Any, state: Any) -> bool:
    """Whether a task failed because a system did not answer; any other failure would repeat itself.

    Source: Prefect's `retry_condition_fn`.
    """
    try:
        state.result()
    except Unavailable:
        return True
    except Exception:  # noqa: BLE001  # whatever else the task raised is Prefect's to report
        return False
    return False
