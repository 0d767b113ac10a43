"""A gateway notices that another process stands behind a predictor's service."""

from __future__ import annotations

from typing import cast

from mlplatform.model.routes import Arm
from mlplatform.rollouts.serving.plane import ServiceStatus
from mlplatform.runtime.errors import NotFound
from mlplatform.scoring.arms.live import Target
from mlplatform.scoring.arms.processes import Processes


class Plane:
    """What it says of each service."""

    def __init__(self) -> None:
        self.said: dict[str, ServiceStatus] = {}

    def status(self, name: str) -> ServiceStatus:
        if name not in self.said:
            raise NotFound(f"no service {name}")
        return self.said[name]

    def says(self, name: str, pid: int | None, *, ready: bool = True, restarts: int = 0) -> None:
        self.said[name] = ServiceStatus(name, ready, "", restarts, pid)


class NamedTarget:
    def __init__(self, service: str) -> None:
        self.arm = Arm(1, "00", service)


ONE, OTHER = cast(Target, NamedTarget("one")), cast(Target, NamedTarget("other"))


def test_a_process_is_told_of_once() -> None:
    plane = Plane()
    processes = Processes(plane.status)
    plane.says("one", 17)
    assert processes.replaced([ONE]) == [ONE]
    assert processes.replaced([ONE]) == []


def test_another_process_is_told_of_when_it_is_ready() -> None:
    plane = Plane()
    processes = Processes(plane.status)
    plane.says("one", 17)
    plane.says("other", 18)
    processes.replaced([ONE, OTHER])
    plane.says("one", 19, ready=False, restarts=1)
    assert processes.replaced([ONE, OTHER]) == []
    plane.says("one", 19, restarts=1)
    assert processes.replaced([ONE, OTHER]) == [ONE]
    assert processes.replaced([ONE, OTHER]) == []


def test_the_same_pid_after_a_restart_is_another_process() -> None:
    plane = Plane()
    processes = Processes(plane.status)
    plane.says("one", 17)
    processes.replaced([ONE])
    plane.says("one", 17, restarts=1)
    assert processes.replaced([ONE]) == [ONE]


def test_a_process_that_was_not_ready_for_a_while_is_the_one_it_was() -> None:
    """A predictor that froze and thawed has earned no probes by that."""
    plane = Plane()
    processes = Processes(plane.status)
    plane.says("one", 17)
    processes.replaced([ONE])
    plane.says("one", 17, ready=False)
    assert processes.replaced([ONE]) == []
    del plane.said["one"]
    assert processes.replaced([ONE]) == []
    plane.says("one", 17)
    assert processes.replaced([ONE]) == []


def test_what_is_another_model_by_now_is_broken_and_what_only_waits_is_not() -> None:
    plane = Plane()
    processes = Processes(plane.status)
    plane.said["one"] = ServiceStatus("one", False, "golden row 0 scores 0.5", failed=True)
    plane.says("other", None, ready=False)
    assert processes.broken([ONE, OTHER, cast(Target, NamedTarget("unknown"))]) == [ONE]
