"""Which of a folder's backups may go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlplatform.operations.backup.retention import name_at, superseded_backups

TIMES_MS = st.lists(st.integers(0, 4_000_000_000_000), max_size=20)


def test_a_backup_is_named_by_the_second_at_which_it_began() -> None:
    assert name_at(1_795_660_200_999) == "mlplatform-20261126T023000Z.tar"


@given(times=TIMES_MS, keep=st.integers(1, 5))
def test_the_newest_stay_and_strangers_too(times: list[int], keep: int) -> None:
    names = {name_at(t) for t in times}
    strangers = {
        "damaged-" + name_at(0),
        ".mlplatform-20261126T023000Z.tar.partial-1",
        "lost+found",
    }

    gone = superseded_backups([*names, *strangers], keep)

    stay = names - set(gone)
    assert not strangers & set(gone)
    assert len(stay) == min(len(names), keep)
    assert all(old < new for old in gone for new in stay)
