"""Whether pods find room on the nodes of a cluster, and the numbers if they do not."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from mlplatform.rollouts.kubernetes.capacity import (
    CapacityShortage,
    FreeCapacity,
    Need,
    Node,
    PodRequest,
    Quota,
    Scope,
    room_for,
    within_quotas,
)
from mlplatform.rollouts.kubernetes.quantities import amounts, quantity
from mlplatform.rollouts.kubernetes.supply import scopes_of
from mlplatform.runtime.errors import InputInvalid

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


def node(gpus: int, *taken: PodRequest, name: str = "n1", cpu: str = "16", **changes: Any) -> Node:
    defaults: dict[str, Any] = {
        "name": name,
        "allocatable": amounts({"cpu": cpu, "memory": "64Gi", GPU: gpus}),
        "labels": {},
        "taints": frozenset({GPU}),
        "pods": taken,
    }
    return Node(**{**defaults, **changes})


def pod(gpus: int, priority: int = 100) -> PodRequest:
    return PodRequest(amounts({"cpu": "1", GPU: gpus}), priority)


def test_pods_fit_where_there_is_room_for_each() -> None:
    assert room_for(need(2), [node(2)], []) == FreeCapacity()
    assert room_for(need(2), [node(1), node(1, name="n2")], []) == FreeCapacity()


def test_too_few_gpus_are_refused_with_the_numbers() -> None:
    answer = room_for(need(2), [node(2, pod(1)), node(1, pod(1), name="n2")], [])

    assert answer == CapacityShortage(
        "fraud-v8-01234567 needs 2 pods with 1 nvidia.com/gpu each, and there is room for 1. 2 "
        "of 2 nodes suit it; they have 3 nvidia.com/gpu, and 2 are taken"
    )


def test_gpus_of_two_nodes_do_not_make_one_pod_of_two() -> None:
    assert isinstance(
        room_for(need(1, gpus=2), [node(1), node(1, name="n2")], []), CapacityShortage
    )


def test_what_is_scarce_is_named_even_if_it_is_no_gpu() -> None:
    answer = room_for(need(2), [node(8, cpu="1500m")], [])

    assert isinstance(answer, CapacityShortage)
    assert "2 pods with 1 cpu each" in answer.reason


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

    assert isinstance(answer, CapacityShortage)
    assert "0 of 1 nodes" in answer.reason


def test_pods_of_less_priority_make_room() -> None:
    busy = node(2, pod(1, priority=10), pod(1, priority=10))

    assert room_for(need(2), [busy], []) == FreeCapacity()
    assert isinstance(room_for(need(3), [busy], []), CapacityShortage)


def test_each_of_them_frees_what_it_holds() -> None:
    """One holds the processors and another the GPUs that two pods lack."""
    processors = PodRequest(amounts({"cpu": "1"}), 0)
    gpus = PodRequest(amounts({GPU: 2}), 10)

    assert room_for(need(2), [node(2, processors, gpus, cpu="2")], []) == FreeCapacity()


def test_equals_do_not_displace_each_other() -> None:
    assert isinstance(room_for(need(1), [node(1, pod(1, priority=100))], []), CapacityShortage)


def test_who_may_not_preempt_waits_for_free_room() -> None:
    trying = need(1, priority=100, preempts=False)

    assert isinstance(room_for(trying, [node(1, pod(1, priority=10))], []), CapacityShortage)


def test_a_quota_refuses_before_any_node_is_looked_at() -> None:
    quota = Quota("gpus", amounts({f"requests.{GPU}": "3"}), amounts({f"requests.{GPU}": "2"}))

    assert room_for(need(2), [node(8)], [quota]) == CapacityShortage(
        "fraud-v8-01234567 asks for 2 nvidia.com/gpu; the quota gpus allows 3, and 2 are used"
    )
    assert room_for(need(1), [node(8)], [quota]) == FreeCapacity()


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


def team_quota(hard: int, used: int = 0, operator: Any = "In", *classes: str) -> Quota:
    scope = Scope(operator, frozenset(classes or ("production-cards",)))
    amount = {"requests.nvidia.com/gpu": Decimal(hard)}
    return Quota("team-cards", amount, {"requests.nvidia.com/gpu": Decimal(used)}, (scope,))


def test_a_teams_quota_refuses_its_own_service_with_the_numbers_and_nobody_elses() -> None:
    quotas = [team_quota(2, 1)]

    assert room_for(
        need(2, priority_class="production-cards"), [node(4)], quotas
    ) == CapacityShortage(
        "fraud-v8-01234567 asks for 2 nvidia.com/gpu; the quota team-cards allows 2, and 1 are used"
    )
    assert room_for(need(1, priority_class="production-cards"), [node(4)], quotas) == FreeCapacity()
    assert room_for(need(2, priority_class="production-loans"), [node(4)], quotas) == FreeCapacity()


@pytest.mark.parametrize(
    ("operator", "of_class", "counts"),
    [
        ("In", "a", True),
        ("In", "b", False),
        ("In", "", False),
        ("NotIn", "a", False),
        ("NotIn", "b", True),
        ("Exists", "a", True),
        ("Exists", "", False),
        ("DoesNotExist", "a", False),
        ("DoesNotExist", "", True),
    ],
)
def test_a_scope_is_about_the_classes_that_kubernetes_says(
    operator: Any, of_class: str, *, counts: bool
) -> None:
    quotas = [team_quota(0, 0, operator, "a")]

    answer = within_quotas(need(1, priority_class=of_class), quotas)

    assert isinstance(answer, CapacityShortage) is counts


def test_a_quota_of_two_scopes_is_about_pods_in_both() -> None:
    both = Quota("q", {"pods": Decimal(0)}, {}, (Scope("Exists"), Scope("NotIn", frozenset("a"))))

    assert isinstance(within_quotas(need(1, priority_class="b"), [both]), CapacityShortage)
    assert within_quotas(need(1, priority_class="a"), [both]) == FreeCapacity()


def test_pods_are_counted_as_pods() -> None:
    quota = Quota("pods", {"pods": Decimal(3)}, {"pods": Decimal(2)})

    assert within_quotas(need(1), [quota]) == FreeCapacity()
    assert within_quotas(need(2), [quota]) == CapacityShortage(
        "fraud-v8-01234567 asks for 2 pods; the quota pods allows 3, and 2 are used"
    )


@pytest.mark.parametrize(
    ("spec", "scopes"),
    [
        ({}, []),
        ({"scopes": ["PriorityClass"]}, [Scope("Exists")]),
        ({"scopes": ["NotTerminating", "NotBestEffort"]}, []),
        ({"scopes": ["BestEffort"]}, None),
        ({"scopes": ["Terminating"]}, None),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [
                        {"scopeName": "PriorityClass", "operator": "In", "values": ["a", "b"]},
                        {"scopeName": "NotTerminating", "operator": "Exists"},
                    ]
                }
            },
            [Scope("In", frozenset("ab"))],
        ),
    ],
)
def test_the_scopes_of_a_resource_quota(spec: dict[str, Any], scopes: list[Scope] | None) -> None:
    assert scopes_of(spec) == scopes
