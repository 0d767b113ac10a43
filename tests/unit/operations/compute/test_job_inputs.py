"""Where a job's inputs are, in a home that was moved or copied."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mlplatform.operations.compute.jobs import Job
from mlplatform.operations.compute.local import JOB_FILE, JobFile, LocalJobs, inputs_of, read_job
from mlplatform.runtime.configuration.settings import Home


def job(inputs: Path) -> Job:
    inputs.mkdir(parents=True)
    (inputs / "shared").mkdir()
    for item in ("a",):
        (inputs / "items" / item).parent.mkdir(exist_ok=True)
        (inputs / "items" / item).write_text("")
    return Job("score-1", "score", "fraud", inputs, ("a",), deadline_s=60)


def submitted(home: Home, inputs: Path) -> JobFile:
    LocalJobs(home.jobs).submit(job(inputs))
    found = read_job(home.jobs / "score-1")
    assert found is not None
    return found


def test_inputs_of_the_same_home_are_named_without_its_path(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")

    found = submitted(home, home.staging / "x")

    assert str(tmp_path) not in found.inputs
    assert inputs_of(found, home.jobs) == home.staging / "x"
    assert inputs_of(found, Path("/moved/jobs")) == Path("/moved/staging/x")


def test_inputs_elsewhere_are_named_by_their_path(tmp_path: Path) -> None:
    found = submitted(Home(tmp_path / "home"), tmp_path / "elsewhere" / "x")

    assert inputs_of(found, Path("/moved/jobs")) == tmp_path / "elsewhere" / "x"


def test_an_earlier_job_reads_what_has_that_name_in_this_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    found = submitted(home, home.staging / "x")
    earlier = msgspec.structs.replace(found, inputs="/former/staging/x")
    (home.jobs / "score-1" / JOB_FILE).write_bytes(msgspec.json.encode(earlier))

    assert inputs_of(earlier, home.jobs) == home.staging / "x"
    gone = msgspec.structs.replace(found, inputs="/former/staging/y")
    assert inputs_of(gone, home.jobs) == Path("/former/staging/y")
