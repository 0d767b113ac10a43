"""A process that ran out of memory is named as one, where anything tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.runtime.processes import endings
from mlplatform.runtime.processes.endings import ending


@pytest.mark.parametrize(
    ("returncode", "before", "after", "lines", "said"),
    [
        pytest.param(
            -9, 3, 4, b"",
            "was killed (signal 9): out of memory; the kernel has killed for memory while it ran",
            id="the kernel counts a kill",
        ),
        pytest.param(
            -9, 3, 3, b"",
            "was killed (signal 9): not by the platform, and the kernel counts no kill for memory"
            " while it ran",
            id="the kernel counts none",
        ),
        pytest.param(
            -9, None, None, b"",
            "was killed (signal 9): by a person, or by the kernel for want of memory; this machine"
            " does not say which",
            id="nothing counts",
        ),
        pytest.param(-11, 3, 4, b"", "was ended by signal 11 (SIGSEGV)", id="another signal"),
        pytest.param(-99, 3, 4, b"", "was ended by signal 99 (unknown)", id="no known signal"),
        pytest.param(
            1, 0, 0, b"Traceback:\nMemoryError\n",
            "ran out of memory (MemoryError) and ended with status 1", id="Python's error",
        ),
        pytest.param(
            1, 0, 0, b"numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9 GiB\n",
            "ran out of memory (MemoryError) and ended with status 1", id="numpy's error",
        ),
        pytest.param(
            1, 0, 0, b"ValueError: no MemoryError\n", "ended with status 1", id="another error"
        ),
        pytest.param(0, 0, 0, b"MemoryError\n", "ended with status 0", id="no failure"),
    ],
)  # fmt: skip
def test_what_ended_a_process(
    returncode: int, before: int | None, after: int | None, lines: bytes, said: str
) -> None:
    found = ending(returncode, kills_before=before, kills_after=after, last_lines=lines)
    assert found == said


def test_kills_are_counted_in_the_own_control_group_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, kernel = tmp_path / "cgroup", tmp_path / "vmstat"
    kernel.write_text("nr_free_pages 5\noom_kill 7\n")
    monkeypatch.setattr(endings, "_KERNEL", kernel)
    monkeypatch.setattr(endings, "OWN_CGROUP", own)
    monkeypatch.setattr(endings, "CGROUPS", tmp_path)
    assert endings.memory_kills() == 7  # no group
    own.write_text("4:memory:/old\n0::/platform\n")
    assert endings.memory_kills() == 7  # a group without the file, as the root is
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "memory.events").write_text("oom 2\noom_kill 1\noom_group_kill 0\n")
    assert endings.memory_kills() == 1
    kernel.unlink()
    own.unlink()
    assert endings.memory_kills() is None


def test_the_tail_of_a_log_is_of_this_life_of_the_process(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    assert endings.tail(log, 0) == b""
    log.write_bytes(b"MemoryError\nof before\n")
    began = log.stat().st_size
    with log.open("ab") as file:
        file.write(b"now\n")
    assert endings.tail(log, began) == b"now\n"
    log.write_bytes(b"turned\n")  # shorter than it was: begun anew
    assert endings.tail(log, began) == b"turned\n"
    log.write_bytes(b"x" * 10_000)
    assert len(endings.tail(log, 0)) == 4_096
