"""A demo that ran out of time says why, and how to go on."""

from __future__ import annotations

from demo.late_runs import late, resume_command


def test_what_was_seen_of_the_runs_and_a_busy_machine_are_named() -> None:
    gone, crashed = "Prefect at http://x does not answer", "materialize fraud is crashed"
    said = late(
        *("materialize", [crashed, gone, gone]), limit_s=600.0, load=18.2, cores=2, model="fraud"
    )
    assert said.startswith(
        f"no run of materialize completed within 600 s ({gone}; {crashed};"
        " this machine's load was 18 on 2 cores: other work slows it); "
    )
    assert "go on with `make demo DEMO_FLAGS=--resume`, after `mlplatform down`" in said


def test_where_nothing_is_known_nothing_is_named() -> None:
    said = late("drift", [], limit_s=600.0, load=0.5, cores=2, model="fraud")
    assert said.startswith("no run of drift completed within 600 s; what is done stays: ")


def test_a_teams_demo_goes_on_with_its_model() -> None:
    assert resume_command("limits") == "make demo MODEL=limits DEMO_FLAGS=--resume"
