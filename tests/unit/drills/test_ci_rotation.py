"""CI's legs that take turns: three runs in a row run all, and each run tells what it left out."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
set -euo pipefail
source .ci/legs.sh
source .ci/cluster.sh
source .ci/rotation.sh
git() { echo "$COUNT"; }
command() { return 0; }
id() { echo 0; }
df() { echo Avail; echo 99G; }
cluster_leg() { leg test-cluster true; }
terraform_leg() { leg test-terraform true; }
page_leg() { leg test-page true; }
make() { SECONDS=$((SECONDS + STEP_S)); return "${FAILS:-0}"; }
timeout() { shift 2; "$@"; }
SECONDS=$BEGUN_S
trap tell_legs EXIT
rotating_legs
"""
LEGS = set(re.findall(r"in_time ([a-z-]+) \d", (ROOT / ".ci/rotation.sh").read_text())) | {
    "test-cluster"
}
ALWAYS_OUT = {"drill-scoring", "bench-scoring", "drill-client"}


def told(count: int, *, step_s: int, begun_s: int = 1800, fails: int = 0) -> tuple[int, str]:
    given = {"COUNT": count, "STEP_S": step_s, "BEGUN_S": begun_s, "FAILS": fails}
    environment = {name: str(value) for name, value in given.items()}
    done = subprocess.run(
        ["bash", "-c", SCRIPT],
        **{"cwd": ROOT, "env": {"PATH": "/usr/bin:/bin", **environment}, "timeout": 60},
        **{"capture_output": True, "text": True},
    )
    return done.returncode, done.stdout.rsplit("=== legs\n", 1)[1]


def ran(legs: str) -> set[str]:
    return {line.split()[0] for line in legs.splitlines() if re.search(r" \d+ s$", line)}


def left_out(legs: str) -> set[str]:
    return {line.split()[0] for line in legs.splitlines() if " left out: " in line}


def test_a_quick_machine_runs_them_all_each_time() -> None:
    for count in range(3):
        _, legs = told(count, step_s=60, begun_s=400)
        assert ran(legs) | left_out(legs) >= LEGS
        assert left_out(legs) <= ALWAYS_OUT | {"demo-handbook"}


def test_three_runs_of_a_slow_machine_run_them_all() -> None:
    seen: set[str] = set()
    for count in range(3):
        status, legs = told(count, step_s=345)
        assert status == 0
        assert ran(legs) | left_out(legs) >= LEGS, "none is left out without a word"
        assert not ran(legs) & left_out(legs)
        seen |= ran(legs)
    assert seen >= LEGS - {"demo-handbook"}, "the handbook's data is not on every machine"


def test_the_guide_is_typed_by_each_template_in_turn() -> None:
    first = [count for count in range(12) if count % 3 == 2]  # the runs that begin with the guide's
    typed = []
    for count in first:
        done = subprocess.run(
            ["bash", "-c", "source .ci/rotation.sh; git() { echo $COUNT; }; guide_template"],
            **{"cwd": ROOT, "env": {"PATH": "/usr/bin:/bin", "COUNT": str(count)}},
            **{"capture_output": True, "text": True, "check": True, "timeout": 60},
        )
        typed.append(done.stdout.strip())
    assert sorted(typed) == ["catboost", "lightgbm", "sklearn", "xgboost"]


@pytest.mark.parametrize("count", range(3))
def test_late_in_a_run_nothing_is_begun(count: int) -> None:
    _, legs = told(count, step_s=60, begun_s=74 * 60)
    assert ran(legs) == {"test-cluster"}, "which looks at the time by itself"


def test_a_leg_that_fails_three_times_refuses_the_change() -> None:
    status, legs = told(0, step_s=60, fails=1)
    assert status != 0
    assert "demo failed at try 2" in legs
    assert "    | === demo: make demo DEMO_FLAGS=--fresh\n" in legs, "the end of what it wrote"


def test_a_leg_is_not_tried_again_where_the_time_is_not_enough() -> None:
    status, legs = told(0, step_s=1500, begun_s=3700, fails=1)
    assert status != 0
    first, *written = legs.splitlines()
    assert re.fullmatch(r"demo failed at try 1, after 150\d s", first)  # real seconds count too
    assert written
    assert all(line.startswith("    | ") for line in written)


TESTS_SCRIPT = """
set -euo pipefail
source .ci/legs.sh
LAST_FAILED=$WRITTEN
suite() { echo run >>"$RUNS"; [ "$(wc -l <"$RUNS")" -gt "$FAILING_RUNS" ]; }
trap tell_legs EXIT
leg_tests test suite
"""


@pytest.mark.parametrize(
    ("failed", "failing_runs", "runs", "passes"),
    [
        pytest.param([], 0, 1, True, id="none failed"),
        pytest.param(["a.py::b"], 1, 2, True, id="one failed at first"),
        pytest.param(["a.py::b"], 2, 2, False, id="one failed twice"),
        pytest.param(["a.py::b", "c.py::d", "c.py::e", "c.py::f"], 1, 1, False, id="many failed"),
        pytest.param([], 1, 1, False, id="the run failed, no test did"),
    ],
)
def test_a_few_tests_that_failed_run_once_more_and_are_named(
    tmp_path: Path, failed: list[str], failing_runs: int, runs: int, passes: bool
) -> None:
    written, ran_file = tmp_path / "lastfailed", tmp_path / "runs"
    written.write_text(json.dumps(dict.fromkeys(failed, True)))
    environment = {"WRITTEN": str(written), "RUNS": str(ran_file), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", TESTS_SCRIPT],
        **{"cwd": ROOT, "env": environment | {"FAILING_RUNS": str(failing_runs)}, "timeout": 60},
        **{"capture_output": True, "text": True},
    )
    assert (done.returncode == 0) is passes
    assert len(ran_file.read_text().split()) == runs
    if runs == 2:
        assert all(f"test failed at first at {name}" in done.stdout for name in failed)
