"""A flow run ends with what it made, and with the command that goes on from there."""

from __future__ import annotations

import pytest

from mlplatform.operations.actions import next_commands
from mlplatform.runtime.units import DAY_MS
from support.carded_version import version


def test_a_version_without_a_rollout_is_told_with_the_command_that_opens_one() -> None:
    assert next_commands.of_version("fraud", 2) == (
        "version 2 is registered; next: `mlplatform rollouts open fraud 2 --actor YOU --reason WHY`"
    )


def test_a_rollout_is_told_with_the_command_that_shows_it() -> None:
    told = "rollout fraud-v2-1 is open; next: `mlplatform rollouts show fraud-v2-1`"
    assert next_commands.of_rollout("fraud-v2-1") == told
    assert next_commands.of_retrained(2, "fraud-v2-1") == f"version 2 is registered; {told}"


def test_a_rollout_that_waits_for_the_drift_watch_is_not_told_as_open() -> None:
    assert next_commands.of_retrained(2, None) == (
        "version 2 is registered; the next drift check opens its rollout, or says why not"
    )


NOTHING_NEW = (
    "nothing is new: this made version 2 again, which ana registered on 1970-01-31 00:00 UTC. "
    "Requests, labels, model folder and seed are the same. Another version needs matured requests "
    "of a day after 1970-01-21 (a later --as-of), labels that arrive late, or a change in the "
    "model's folder"
)


@pytest.mark.parametrize(
    ("champion", "ends"),
    [(2, ". Version 2 is the champion: there is nothing to roll out"), (1, ""), (None, "")],
)
def test_a_version_that_was_there_before_is_told_with_what_would_give_another(
    champion: int | None, ends: str
) -> None:
    told = next_commands.of_known_version(
        version("b" * 64), last_day_ms=21 * DAY_MS - 1, champion=champion
    )
    assert told == NOTHING_NEW + ends


def test_a_known_version_that_is_no_champion_may_still_be_rolled_out() -> None:
    next_command = "; next: `mlplatform rollouts open fraud 2 --actor YOU --reason WHY`"
    assert next_commands.of_version("fraud", 2, NOTHING_NEW) == NOTHING_NEW + next_command
    told = next_commands.of_retrained(2, "fraud-v2-1", NOTHING_NEW)
    assert told.startswith(f"{NOTHING_NEW}; rollout fraud-v2-1 is open; next: ")
