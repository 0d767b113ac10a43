"""What was refused is kept, whatever the disk does, and nothing of it moves a terminal's cursor."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mlplatform.runtime.telemetry import refusals
from mlplatform.runtime.telemetry.refusals import Refusal, Refusals, counts

LATER_MS = 2_000


def _refusal(wall_ms: int = LATER_MS, asked: str = "PATCH /api/deployments/1") -> Refusal:
    return Refusal(wall_ms, "prefect", "unknown", asked, "no log-in")


def test_a_refusal_is_read_back(tmp_path: Path) -> None:
    kept = Refusals(tmp_path / "audit")
    kept.keep(_refusal())
    assert [_refusal()] == list(kept.since(0))
    assert counts(kept.since(0)) == {"prefect": 1}


def test_only_later_ones_are_asked_for(tmp_path: Path) -> None:
    kept = Refusals(tmp_path)
    kept.keep(_refusal(1_000, asked="PATCH /api/deployments/0"))
    kept.keep(_refusal())
    assert [_refusal()] == list(kept.since(LATER_MS))


@pytest.mark.parametrize(
    ("door", "who", "file"),
    [
        ("prefect", "unknown", refusals.STRANGERS),
        ("prefect", "eve", refusals.FILE),
        ("approval", "unknown", refusals.FILE),
    ],
)
def test_the_file_is_its_owners_alone(tmp_path: Path, door: str, who: str, file: str) -> None:
    Refusals(tmp_path).keep(Refusal(LATER_MS, door, who, "PATCH /api/deployments/1", "no log-in"))
    assert stat.S_IMODE((tmp_path / file).stat().st_mode) == 0o600


def test_control_characters_are_written_out(tmp_path: Path) -> None:
    kept = Refusals(tmp_path)
    kept.keep(_refusal(asked="\x1b[2J hello"))
    assert [r.asked for r in kept.since(0)] == ["\\x1b[2J hello"]


def test_a_line_that_was_cut_off_hides_no_other(tmp_path: Path) -> None:
    kept = Refusals(tmp_path)
    (tmp_path / refusals.STRANGERS).write_bytes(b'{"wall_ms": 5, "door"\n')
    kept.keep(_refusal())
    assert [_refusal()] == list(kept.since(0))


def test_a_terminal_shows_a_refusal_once_and_every_other_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals.log, "filters", [])  # lines of other tests count for the limit
    (tmp_path / "audit").write_text("no folder")
    Refusals(tmp_path / "audit").keep(_refusal())
    shown = [line.getMessage() for line in caplog.records if refusals.is_no_refusal(line)]
    assert len(caplog.records) == 2
    assert len(shown) == 1
    assert shown[0].startswith("refusals are not written to")


def test_a_home_that_takes_no_file_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "audit").write_bytes(b"a file where a folder should be")
    Refusals(tmp_path / "audit").keep(_refusal())


def test_many_refusals_do_not_fill_the_disk(tmp_path: Path) -> None:
    now_s = [0.0]
    kept = Refusals(tmp_path, lambda: now_s[0])
    for number in range(2 * refusals.KEPT.file_bytes // 300 + 100):
        now_s[0] += refusals.AGAIN_S
        kept.keep(_refusal(asked=f"{number:x>{refusals.MOST_CHARACTERS}}"))
    total = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert total <= refusals.KEPT.files * refusals.KEPT.file_bytes + 1_000


@pytest.mark.parametrize(("door", "who"), [("prefect", "mallory"), ("approval", "unknown")])
def test_a_flood_of_strangers_hides_nothing_that_counts(
    tmp_path: Path, door: str, who: str
) -> None:
    """Neither what is refused while it goes on, nor what was refused before it."""
    now_s = [0.0]
    kept = Refusals(tmp_path, lambda: now_s[0])
    before, beside = (Refusal(LATER_MS, door, who, asked, "no") for asked in ("before", "beside"))
    kept.keep(before)
    for minute in range(120):
        now_s[0] += refusals.AGAIN_S
        for number in range(2 * refusals.MOST_IN_A_WHILE):
            kept.keep(_refusal(asked=f"{minute} {number:x>{refusals.MOST_CHARACTERS - 4}}"))
    kept.keep(beside)
    found = [refusal for refusal in kept.since(0) if refusal.who == who and refusal.door == door]
    assert found == [before, beside]


def test_strangers_have_a_quota(tmp_path: Path) -> None:
    kept = Refusals(tmp_path, lambda: 0.0)
    for number in range(20_000):
        kept.keep(_refusal(asked=f"PATCH /api/{number}"))
    assert len(list(kept.since(0))) == refusals.MOST_IN_A_WHILE


def test_repeats_are_kept_once_a_minute_and_hide_no_other(tmp_path: Path) -> None:
    now_s = [0.0]
    kept = Refusals(tmp_path, lambda: now_s[0])
    for _ in range(1_000):
        kept.keep(_refusal())
    kept.keep(_refusal(asked="PATCH /api/work_pools/a"))
    now_s[0] = refusals.AGAIN_S
    kept.keep(_refusal())
    assert len(list(kept.since(0))) == 3
