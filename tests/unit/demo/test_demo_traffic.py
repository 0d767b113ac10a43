"""How the demo sends again what was not taken."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest

from demo.traffic import RETRY_PAUSE_S, Player, Recording
from mlplatform.runtime.errors import Unavailable
from mlplatform_client import AsyncClient, Label, LabelReceipt, Overloaded
from mlplatform_client.errors import Facts

NOW_MS = 1_767_225_600_000


async def test_labels_that_come_too_soon_are_sent_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a gateway asks to wait longer than a call lasts."""
    sent = 0

    async def label(_: AsyncClient, model: str, labels: list[Label]) -> LabelReceipt:
        nonlocal sent
        sent += 1
        raise Overloaded(Facts(call=f"label {model}", message="too much", way_out="Wait."))

    monkeypatch.setattr(AsyncClient, "label", label)
    at = pa.array([NOW_MS * 1000], pa.timestamp("us", "UTC"))
    columns = {"request_id": ["a"], "event_time": at, "label": [1], "label_time": at}
    recording = Recording(pa.table(columns), ())
    async with Player(recording, "http://127.0.0.1:1", "fraud", "key") as player:
        began_s = time.monotonic()
        with pytest.raises(Unavailable):
            await player.send_labels(NOW_MS, lambda: sent < 3)
        took_s = time.monotonic() - began_s
    assert (sent, player.counts.retries) == (3, 2)
    assert took_s >= 2 * RETRY_PAUSE_S, "it pauses before it sends again"
