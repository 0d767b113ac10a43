"""CI's leg on a Kubernetes: what it runs, when it stands aside, and what alone refuses a change."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MAKE = """\
#!/usr/bin/env bash
# Plays the targets: each ends with the next status of its file (0 where it has none).
target=${*: -1}
case "$*" in *FULL=1*) target="${*: -2:1} FULL=1" ;; esac
[ "$target" = cluster-packages ] && exit # nothing is lacking
echo "$target" >> "$FAKE/calls"
status=$(head -n 1 "$FAKE/$target" 2>/dev/null)
sed -i 1d "$FAKE/$target" 2>/dev/null
case $target in
cluster-state) cat "$FAKE/state" ;;
terraform-state) cat "$FAKE/terraform" ;;
"cluster-build FULL=1") [ "${status:-0}" -eq 0 ] && echo "built, whole" > "$FAKE/state" ;;
cluster-up) [ "${status:-0}" -eq 0 ] && sed -i "s/to be built/built/" "$FAKE/state" ;;
test-cluster*)
    echo "KServe controller: the stand-in"
    [ "${status:-0}" -eq 0 ] || echo "FAILED tests/cluster/test_x.py::test_y"
    ;;
esac
exit "${status:-0}"
"""


@dataclass
class Ran:
    """What make was asked for after the state, and what was said of it."""

    status: int
    calls: list[str]
    legs: str


class Ci:
    """The leg with a make that plays its part, at a minute of the run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "bin").mkdir()
        make = folder / "bin" / "make"
        make.write_text(MAKE)
        make.chmod(0o755)
        (folder / "work").mkdir()
        (folder / "work" / ".ci").symlink_to(ROOT / ".ci")

    def run(
        self,
        state: str,
        minute: int,
        *,
        terraform: str = "lacking",
        strict: bool = False,
        **statuses: list[int],
    ) -> Ran:
        (self._folder / "state").write_text(state + "\n")
        (self._folder / "terraform").write_text(f"{terraform}\n")
        for target, given in statuses.items():
            name = target.replace("_", "-").replace("-FULL", " FULL=1")
            (self._folder / name).write_text("".join(f"{status}\n" for status in given))
        script = (
            "set -euo pipefail; source .ci/legs.sh; source .ci/cluster.sh; trap tell_legs EXIT; "
            f"SECONDS={minute * 60}; cluster_leg"
        )
        environment = {
            **os.environ,
            "PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}",
            "FAKE": str(self._folder),
            "CLUSTER_STRICT": "1" if strict else "",
        }
        done = subprocess.run(
            ["bash", "-c", script],
            **{"cwd": self._folder / "work", "env": environment, "timeout": 60},
            **{"capture_output": True, "text": True},
        )
        calls = (self._folder / "calls").read_text().splitlines()
        legs = done.stdout.rsplit("=== legs\n", 1)[1]
        return Ran(done.returncode, [c for c in calls if not c.endswith("-state")], legs)


@pytest.fixture
def ci(tmp_path: Path) -> Ci:
    return Ci(tmp_path)


BUILT = "built, whole"
FULL = "test-cluster FULL=1"
DEMO = "demo-cluster"


def test_what_is_cached_runs_whole_and_says_which_controller(ci: Ci) -> None:
    ran = ci.run(BUILT, 50)
    assert (ran.status, ran.calls) == (0, ["cluster-up", "cluster-down", FULL, DEMO])
    assert "test-cluster ran FULL=1 PART=upgrade; KServe controller: the stand-in" in ran.legs


@pytest.mark.parametrize(
    ("count", "part"), [(0, "upgrade"), (2, "upgrade"), (3, "node-loss"), (5, "node-loss")]
)
def test_upgrade_and_loss_of_a_node_take_turns(count: int, part: str) -> None:
    counted = f"git() {{ echo {count}; }}; source .ci/cluster.sh; whole_part"
    said = subprocess.run(["bash", "-c", counted], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout == f"{part}\n"


def test_a_machine_that_has_nothing_builds_all_of_it_in_the_time_that_is_left(ci: Ci) -> None:
    ran = ci.run("to be built", 38)
    assert ran.calls == ["cluster-up", "cluster-down", "cluster-build FULL=1", FULL, DEMO]


def test_late_in_the_run_the_rest_is_not_built(ci: Ci) -> None:
    ran = ci.run("built", 55)
    assert ran.calls == ["cluster-up", "cluster-down", "test-cluster", DEMO]
    assert "test-cluster ran without FULL=1" in ran.legs


def test_later_nothing_is_built(ci: Ci) -> None:
    ran = ci.run("to be built", 46)
    assert (ran.status, ran.calls) == (0, [])
    assert "left out: Kubernetes is to be built, and of 75 minutes fewer than 30" in ran.legs


@pytest.mark.parametrize(
    ("state", "statuses", "calls", "told"),
    [
        pytest.param("lacking root", {}, [], "left out: lacking root", id="something is lacking"),
        pytest.param(BUILT, {"cluster_up": [2]}, ["cluster-up"], "does not come up", id="no up"),
        pytest.param(
            BUILT,
            {"cluster_down": [2]},
            ["cluster-up", "cluster-down"],
            "does not come up and end",
            id="no down",
        ),
        pytest.param(
            BUILT,
            {"test_cluster_FULL": [124]},
            ["cluster-up", "cluster-down", FULL],
            "not through in 20 minutes",
            id="too slow",
        ),
    ],
)
def test_a_machine_that_cannot_loses_this_leg_alone(
    ci: Ci, state: str, statuses: dict[str, list[int]], calls: list[str], told: str
) -> None:
    ran = ci.run(state, 30, **statuses)
    assert (ran.status, ran.calls) == (0, calls)
    assert told in ran.legs


def test_a_rest_that_is_not_built_in_time_loses_the_rest_alone(ci: Ci) -> None:
    ran = ci.run("built", 30, cluster_build_FULL=[124])
    assert (ran.status, ran.calls[-2:]) == (0, ["test-cluster", DEMO])
    assert "FULL=1 left out" in ran.legs


@pytest.mark.parametrize(
    ("statuses", "status", "tries", "told"),
    [
        ([0], 0, 1, r"terraform-apply \d+ s"),
        ([2], 0, 2, "terraform-apply failed at try 1"),
        ([124], 0, 1, "terraform-apply left out"),
        ([2, 2], 1, 2, "terraform-apply failed at try 2"),
    ],
)
def test_terraform_is_applied_to_the_cluster_that_is_up(
    ci: Ci, statuses: list[int], status: int, tries: int, told: str
) -> None:
    ran = ci.run(BUILT, 30, terraform="ready", terraform_apply=statuses)
    assert ran.calls[: tries + 2] == ["cluster-up", *["terraform-apply"] * tries, "cluster-down"]
    assert (ran.status, FULL in ran.calls) == (status, status == 0)
    assert re.search(told, ran.legs)


def test_suites_that_fail_are_tried_once_more_and_named(ci: Ci) -> None:
    ran = ci.run(BUILT, 30, test_cluster_FULL=[2])
    assert (ran.status, ran.calls) == (0, ["cluster-up", "cluster-down", FULL, FULL, DEMO])
    assert "failed at try 1: FAILED tests/cluster/test_x.py::test_y" in ran.legs
    assert "test-cluster ran FULL=1" in ran.legs


def test_suites_that_fail_twice_refuse_the_change(ci: Ci) -> None:
    ran = ci.run(BUILT, 30, test_cluster_FULL=[2, 2])
    assert (ran.status, ran.calls.count(FULL), DEMO in ran.calls) == (1, 2, False)
    assert "failed at try 2" in ran.legs


@pytest.mark.parametrize(
    ("statuses", "status", "told"),
    [
        ([2], 0, "demo-cluster failed at try 1"),
        ([124], 0, "demo-cluster left out: it was not through"),
        ([2, 2], 0, "demo-cluster FAILED; that refuses nothing without CLUSTER_STRICT=1"),
    ],
)
def test_the_demo_through_kserve_is_tried_twice(
    ci: Ci, statuses: list[int], status: int, told: str
) -> None:
    ran = ci.run(BUILT, 30, demo_cluster=statuses)
    assert (ran.status, told in ran.legs) == (status, True)


def test_the_demo_through_kserve_is_not_begun_late(ci: Ci) -> None:
    ran = ci.run(BUILT, 61)
    assert (ran.status, ran.calls[-1]) == (0, FULL)
    assert "demo-cluster left out: of 75 minutes fewer than 15 are left at try 1" in ran.legs


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("target", ["test_cluster_FULL", "terraform_apply", "demo_cluster"])
def test_what_fails_twice_on_a_cluster_built_just_now_is_told_or_refuses_as_asked(
    ci: Ci, target: str, strict: bool
) -> None:
    ran = ci.run("to be built", 10, terraform="ready", strict=strict, **{target: [2, 2]})
    assert ran.status == int(strict)
    assert "failed at try 2" in ran.legs
    assert ("refuses nothing without CLUSTER_STRICT=1" in ran.legs) == (not strict)


def test_a_second_try_is_not_begun_late(ci: Ci) -> None:
    ran = ci.run(BUILT, 66, test_cluster_FULL=[2])
    assert (ran.status, ran.calls.count(FULL)) == (0, 0)
    assert "fewer than 10 are left at try 1" in ran.legs


def test_a_command_that_is_ended_may_end_what_it_started(tmp_path: Path) -> None:
    """`timeout` goes on once its command has ended: that must not be before the cluster has."""
    ends = "trap 'sleep 1; echo ended; exit 3' TERM; echo begun; sleep 60 & wait"
    log = tmp_path / "log"
    began = time.monotonic()
    done = subprocess.run(
        ["timeout", "2", ROOT / ".ci" / "logged", log, "bash", "-c", ends],
        **{"capture_output": True, "text": True, "timeout": 60},
    )
    assert done.returncode == 124
    assert log.read_text() == "begun\nended\n"
    assert "begun" in done.stdout
    assert time.monotonic() - began < 30
