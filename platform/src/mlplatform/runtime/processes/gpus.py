"""Whether this machine or container has a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEVICES: Final = Path("/dev")


def has_gpu(devices: Path = DEVICES) -> bool:
    """Whether this process sees a GPU of NVIDIA: the driver makes a device for each."""
    return any(devices.glob("nvidia[0-9]*"))
