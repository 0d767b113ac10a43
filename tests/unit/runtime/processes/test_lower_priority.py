"""What runs beside payments steps back, on kernels that share cores between sessions too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AUTOGROUP = Path("/proc/self/autogroup")
TELL = """
import os
from pathlib import Path
from mlplatform.runtime.processes.parent_death import lower_priority

lower_priority(10)
group = Path("/proc/self/autogroup")
print(os.nice(0), group.read_text().strip() if group.exists() else "")
"""


def stepped_back(*, leads_session: bool) -> tuple[int, str]:
    """Niceness of a process that stepped back, and of its session."""
    done = subprocess.run(
        [sys.executable, "-c", TELL],
        start_new_session=leads_session,
        check=True,
        capture_output=True,
        text=True,
    )
    nice, _, group = done.stdout.rstrip("\n").partition(" ")
    return int(nice), group


def session_nice() -> str:
    """As the kernel tells it: nothing at all in a session that has no group of its own (a
    container's first)."""
    return AUTOGROUP.read_text().strip()


def test_a_process_steps_back() -> None:
    assert stepped_back(leads_session=True)[0] >= 10


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel has no autogroups")
def test_a_child_of_the_platform_steps_back_with_its_whole_session() -> None:
    assert stepped_back(leads_session=True)[1].endswith("nice 10")


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel has no autogroups")
def test_what_somebody_starts_by_hand_leaves_their_session_alone() -> None:
    before = session_nice()
    assert stepped_back(leads_session=False)[1] == before
    assert session_nice() == before
