"""A predictor beside the platform keeps to the memory of its manifest, as a pod does."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlplatform.model.folders import load_definition
from mlplatform.operations.supervisor.child import Child
from mlplatform.operations.supervisor.predictor_processes import predictor_spec
from mlplatform.operations.supervisor.spec import ChildSpec
from mlplatform.rollouts.serving.manifest import read, render
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.processes.parent_death import ParentDeathPipe
from mlplatform.runtime.units import MIB

LIMIT_S = 60
TAKES = """
import sys, time
held = bytearray(int(sys.argv[1]) * 1024**2)
held[::4096] = b"1" * len(held[::4096])
time.sleep(600)
"""


def manifest() -> dict[str, Any]:
    definition = load_definition("fraud")
    return render(definition, 3, "ab" * 32, "bundle:" + "ab" * 32)


@pytest.mark.parametrize(("takes_mib", "is_killed"), [(20, False), (200, True)])
async def test_who_takes_more_is_killed_named_and_started_again(
    tmp_path: Path, takes_mib: int, is_killed: bool
) -> None:
    argv = (sys.executable, "-c", TAKES, str(takes_mib))
    spec = ChildSpec("eater", argv, memory_bytes=100 * MIB, memory_setting="serving.memory_mib")
    home, parent_pipe = Home(tmp_path), ParentDeathPipe()
    home.create()
    child = Child(spec, home, parent_pipe, lambda _: None)
    keeping = asyncio.create_task(child.keep())
    try:
        until_s = time.monotonic() + (LIMIT_S if is_killed else 4)
        while child.restarts == 0 and time.monotonic() < until_s:
            await asyncio.sleep(0.05)
    finally:
        child.stop()
        await keeping
        parent_pipe.close()
    assert (child.restarts > 0) == is_killed
    if is_killed:
        told = r"took 2\d\d MiB of memory, more than its 100 MiB \(serving\.memory_mib\), and was"
        assert re.match(told, child.ended)


def test_the_limit_is_the_manifests(tmp_path: Path) -> None:
    assert predictor_spec(Home(tmp_path), read(manifest())).memory_bytes == 512 * MIB
    old = manifest()
    del old["spec"]["predictor"]["model"]["resources"]
    assert predictor_spec(Home(tmp_path), read(old)).memory_bytes is None, "from before limits"


def test_a_predictor_is_told_the_whole_digest_that_the_service_is_for(tmp_path: Path) -> None:
    service = read(manifest())
    assert f"--digest={service.digest}" in predictor_spec(Home(tmp_path), service).argv


def test_the_time_to_load_is_the_manifests_and_grows_with_the_bundle(tmp_path: Path) -> None:
    home, patient = Home(tmp_path), manifest()
    assert predictor_spec(home, read(patient)).start_deadline_s == 60
    probe = patient["spec"]["predictor"]["model"]["startupProbe"]
    probe["failureThreshold"] = 300
    assert predictor_spec(home, read(patient)).start_deadline_s == 300
    del patient["spec"]["predictor"]["model"]["startupProbe"]
    assert predictor_spec(home, read(patient)).start_deadline_s == 60, "from before it was read"


def test_a_limit_that_says_nothing_is_refused() -> None:
    wrong = manifest()
    wrong["spec"]["predictor"]["model"]["resources"]["limits"]["memory"] = "lots"
    with pytest.raises(ConfigInvalid, match=r"resources\.limits\.memory"):
        read(wrong)
