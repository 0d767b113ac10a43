"""Whether pods find room on the nodes of a cluster, and the numbers if they do not."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from mlplatform.cluster.capacity import Fits, Need, Node, Quota, Short, Taken, room_for
from mlplatform.cluster.quantities import amounts, quantity
from mlplatform.errors import InputInvalid

GPU = "nvidia.com/gpu"


def need(pods: int = 2, *, gpus: int = 1, priority: int = 100, **changes: Any) -> Need:
    defaults: dict[str, Any] = {
        "service": "fraud-v8-01234567",
        "amounts": amounts({"cpu": "1", "memory": "2Gi", GPU: gpus}),
        "pods": pods,
        "selector": {},
        "tolerates": frozenset({GPU}),
        "priority": priority,
    }
    return Need(**{**defaults, **changes})


def node(gpus: int, *taken: Taken, name: str = "n1", cpu: str = "16", **changes: Any) -> Node:
    defaults: dict[str, Any] = {
        "name": name,
        "allocatable": amounts({"cpu": cpu, "memory": "64Gi", GPU: gpus}),
        "labels": {},
        "taints": frozenset({GPU}),
        "pods": taken,
    }
    return Node(**{**defaults, **changes})


def pod(gpus: int, priority: int = 100) -> Taken:
    return Taken(amounts({"cpu": "1", GPU: gpus}), priority)


def test_pods_fit_where_there_is_room_for_each() -> None:
    assert room_for(need(2), [node(2)], []) == Fits()
    assert room_for(need(2), [node(1), node(1, name="n2")], []) == Fits()


def test_too_few_gpus_are_refused_with_the_numbers() -> None:
    answer = room_for(need(2), [node(2, pod(1)), node(1, pod(1), name="n2")], [])

    assert answer == Short(
        "fraud-v8-01234567 needs 2 x 1 nvidia.com/gpu; the 2 of 2 nodes that suit it have 3, 2 are "
        "taken: room for 1 of 2 pods"
    )


def test_gpus_of_two_nodes_do_not_make_one_pod_of_two() -> None:
    assert isinstance(room_for(need(1, gpus=2), [node(1), node(1, name="n2")], []), Short)


def test_what_is_scarce_is_named_even_if_it_is_no_gpu() -> None:
    answer = room_for(need(2), [node(8, cpu="1500m")], [])

    assert isinstance(answer, Short)
    assert "2 x 1 cpu" in answer.reason


@pytest.mark.parametrize(
    "unsuited",
    [
        node(8, labels={"nvidia.com/gpu.product": "T4"}),
        node(8, taints=frozenset({GPU, "maintenance"})),
    ],
)
def test_nodes_of_another_kind_or_kept_for_others_do_not_count(unsuited: Node) -> None:
    wanted = need(selector={"nvidia.com/gpu.product": "L4"})

    answer = room_for(wanted, [unsuited], [])

    assert isinstance(answer, Short)
    assert "the 0 of 1 nodes" in answer.reason


def test_pods_of_less_priority_make_room_and_are_counted() -> None:
    busy = node(2, pod(1, priority=10), pod(1, priority=10))

    assert room_for(need(2), [busy], []) == Fits(preempting=2)


def test_only_pods_that_hold_what_lacks_would_go() -> None:
    idle = [Taken(amounts({"cpu": "1"}), 0)] * 3

    assert room_for(need(1), [node(1, *idle, pod(1, priority=10))], []) == Fits(preempting=1)


def test_equals_do_not_displace_each_other() -> None:
    assert isinstance(room_for(need(1), [node(1, pod(1, priority=100))], []), Short)


def test_who_may_not_preempt_waits_for_free_room() -> None:
    trying = need(1, priority=100, preempts=False)

    assert isinstance(room_for(trying, [node(1, pod(1, priority=10))], []), Short)


def test_a_quota_refuses_before_any_node_is_looked_at() -> None:
    quota = Quota("gpus", amounts({f"requests.{GPU}": "3"}), amounts({f"requests.{GPU}": "2"}))

    assert room_for(need(2), [node(8)], [quota]) == Short(
        "fraud-v8-01234567 asks for 2 nvidia.com/gpu; the quota gpus allows 3, and 2 are used"
    )
    assert room_for(need(1), [node(8)], [quota]) == Fits()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        ("256Mi", "268435456"),
        ("1e3", "1000"),
        ("1.5Gi", "1610612736"),
        ("100k", "100000"),
    ],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str, number: str) -> None:
    assert quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "Mi", "1Q", "ki", "1 Gi", "0x1", "NaN", "mi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(InputInvalid):
        quantity(text)
