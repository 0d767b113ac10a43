"""A demo that is asked to end while it ends goes on ending."""

from __future__ import annotations

import asyncio

import pytest

from demo.run import _to_its_end


def test_work_goes_on_through_requests_to_end() -> None:
    done: list[str] = []

    async def stop() -> None:
        await asyncio.sleep(0.05)
        done.append("stopped")

    async def main() -> None:
        ending = asyncio.ensure_future(_to_its_end(stop()))
        for _ in range(3):
            await asyncio.sleep(0.005)
            ending.cancel()
        await ending

    asyncio.run(main())
    assert done == ["stopped"]


def test_what_goes_wrong_while_it_ends_is_told() -> None:
    async def stop() -> None:
        raise OSError("no such process")

    with pytest.raises(OSError, match="no such process"):
        asyncio.run(_to_its_end(stop()))
