"""Whether a service's pods find room in a cluster, before anything is changed; the numbers if
not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, assert_never

from mlplatform.rollouts.kubernetes.quantities import Amounts


@dataclass(frozen=True, slots=True)
class PodRequest:
    """The resources that a pod on a node requests, and its priority."""

    amounts: Amounts
    priority: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node on which pods may be placed.

    Args:
        allocatable: resource → amount that the node offers to all pods together.
        taints: keys of taints that keep away pods without a matching toleration.
        pods: pods that run on the node.
    """

    name: str
    allocatable: Amounts
    labels: Mapping[str, str]
    taints: frozenset[str]
    pods: tuple[PodRequest, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """The PriorityClasses that a quota counts, in the terms of Kubernetes.

    Args:
        operator: In or NotIn: the pod's class is, or is not, one of `classes`. Exists: the pod has
            any class. DoesNotExist: it has none.
    """

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    classes: frozenset[str] = frozenset()

    def holds(self, priority_class: str) -> bool:
        """Whether the scope holds pods of this class; an empty name is no class."""
        match self.operator:
            case "In":
                return priority_class in self.classes
            case "NotIn":
                return priority_class not in self.classes
            case "Exists":
                return bool(priority_class)
            case "DoesNotExist":
                return not priority_class
            case _:
                assert_never(self.operator)


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit of the namespace: resource → amount, as ResourceQuotas count requests and pods.

    Args:
        scopes: conditions that must all hold for a pod to count; empty means that every pod counts.
    """

    name: str
    hard: Amounts
    used: Amounts
    scopes: tuple[Scope, ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """The resources that a service requests.

    Args:
        amounts: resource → amount that one pod requests.
        pods: most pods at the same time, including the surge of an update.
        selector: labels that a node must have.
        tolerates: keys of taints that do not keep its pods away.
        priority_class: class by which quotas tell pods apart; empty for none.
        preempts: whether pods of lower priority make room for the service.
    """

    service: str
    amounts: Amounts
    pods: int
    selector: Mapping[str, str]
    tolerates: frozenset[str]
    priority: int
    priority_class: str = ""
    preempts: bool = True


@dataclass(frozen=True, slots=True)
class FreeCapacity:
    """There is room for the pods, or pods of lower priority make it."""


@dataclass(frozen=True, slots=True)
class CapacityShortage:
    """There is no room for the pods; `reason` says how much is missing."""

    reason: str


def room_for(
    need: Need, nodes: Sequence[Node], quotas: Sequence[Quota]
) -> FreeCapacity | CapacityShortage:
    """Whether the pods fit on the nodes as they are, and into the namespace's quotas.

    Nodes that an autoscaler could add are not counted: it may have none to add either.
    """
    over = within_quotas(need, quotas)
    if isinstance(over, CapacityShortage):
        return over
    suited = [n for n in nodes if _suits(n, need)]
    free = sum(_fitting(need, _free(n)) for n in suited)
    if free >= need.pods:
        return FreeCapacity()
    if need.preempts and sum(_fitting(need, _freeable(n, need)) for n in suited) >= need.pods:
        return FreeCapacity()
    return CapacityShortage(_numbers(need, suited, len(nodes), free))


def within_quotas(need: Need, quotas: Sequence[Quota]) -> FreeCapacity | CapacityShortage:
    """Whether the namespace's quotas leave room, wherever the pods would run."""
    counting = [q for q in quotas if all(s.holds(need.priority_class) for s in q.scopes)]
    return next((s for q in counting if (s := _over(need, q)) is not None), FreeCapacity())


def _over(need: Need, quota: Quota) -> CapacityShortage | None:
    for name, hard in quota.hard.items():
        requested, used = _amount_asked(need, name), quota.used.get(name, Decimal(0))
        if requested and used + requested > hard:
            return CapacityShortage(
                f"{need.service} asks for {requested.normalize():f} {_plain(name)}; the quota "
                f"{quota.name} allows {hard.normalize():f}, and {used.normalize():f} are used"
            )
    return None


def _amount_asked(need: Need, name: str) -> Decimal:
    """The amount of a quota's resource that a service requests; counts and limits of other objects
    are 0."""
    if name in ("pods", "count/pods"):
        return Decimal(need.pods)
    return need.amounts.get(_plain(name), Decimal(0)) * need.pods


def _plain(name: str) -> str:
    return name.removeprefix("requests.")


def _suits(node: Node, need: Need) -> bool:
    labelled = all(node.labels.get(k) == v for k, v in need.selector.items())
    return labelled and node.taints <= need.tolerates


def _free(node: Node) -> dict[str, Decimal]:
    """The resources of a node that its pods leave free."""
    left = dict(node.allocatable)
    for pod in node.pods:
        for name, amount in pod.amounts.items():
            left[name] = left.get(name, Decimal(0)) - amount
    return left


def _freeable(node: Node, need: Need) -> dict[str, Decimal]:
    """The resources of a node that are free once all its pods of lower priority have gone."""
    kept = tuple(pod for pod in node.pods if pod.priority >= need.priority)
    return _free(replace(node, pods=kept))


def _fitting(need: Need, left: Amounts) -> int:
    """The number of such pods that fit into the free resources."""
    amounts = {name: amount for name, amount in need.amounts.items() if amount > 0}
    if not amounts:
        return need.pods
    whole = (left.get(name, Decimal(0)) // amount for name, amount in amounts.items())
    return max(0, int(min(whole)))


def _numbers(need: Need, suited: Sequence[Node], all_nodes: int, free: int) -> str:
    scarce = _scarcest(need, suited)
    amount = need.amounts[scarce]
    have = sum((n.allocatable.get(scarce, Decimal(0)) for n in suited), Decimal(0))
    taken = sum((pod.amounts.get(scarce, Decimal(0)) for n in suited for pod in n.pods), Decimal(0))
    return (
        f"{need.service} needs {need.pods} pod{'s' if need.pods != 1 else ''} with"
        f" {amount.normalize():f} {scarce} each, and there is room for {free}. {len(suited)} of"
        f" {all_nodes} nodes suit it; they have {have.normalize():f} {scarce}, and"
        f" {taken.normalize():f} are taken"
    )


def _scarcest(need: Need, nodes: Sequence[Node]) -> str:
    """The resource that lets the fewest pods in; extended ones first where several are alike."""

    def fitting(name: str) -> tuple[int, bool]:
        one = {name: need.amounts[name]}
        alone = Need(need.service, one, need.pods, {}, frozenset(), need.priority)
        return sum(_fitting(alone, _free(n)) for n in nodes), "/" not in name

    return min((n for n, amount in need.amounts.items() if amount > 0), key=fitting)
