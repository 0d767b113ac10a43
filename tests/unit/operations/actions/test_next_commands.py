"""A flow run ends with what it made, and with the command that goes on from there."""

from __future__ import annotations

from mlplatform.operations.actions import next_commands


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
