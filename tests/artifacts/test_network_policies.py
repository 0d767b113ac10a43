"""Network policies open the paths that processes take, as settings name them, and no other."""

from __future__ import annotations

import re
from typing import Any

import pytest

from support.network_paths import (
    API_SERVER,
    COLLECTOR,
    DOCUMENTS,
    HTTPS,
    KAFKA,
    LETS_IN,
    MODELS,
    NAMES,
    OPENS,
    PLATFORM,
    POSTGRES,
    REDIS,
    ROOT,
    Path_,
    labels,
    pods,
)

SOURCE = ROOT / "platform" / "src" / "mlplatform"


def policies(namespace: str = PLATFORM) -> list[dict[str, Any]]:
    found = [d for d in DOCUMENTS if d["kind"] == "NetworkPolicy"]
    return [d["spec"] for d in found if d["metadata"]["namespace"] == namespace]


def chosen(selector: dict[str, Any], of_pod: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(e["operator"] == "Exists" for e in expressions)
    has = all(e["key"] in of_pod for e in expressions)
    return has and selector.get("matchLabels", {}).items() <= of_pod.items()


def whom(peer: dict[str, Any]) -> str:
    if "ipBlock" in peer:
        assert peer["ipBlock"]["except"]
        return "addresses but a few"
    space = peer.get("namespaceSelector", {}).get("matchLabels", {})
    pod = peer.get("podSelector", {})
    where = space.get("kubernetes.io/metadata.name", "") or next(iter(space), "")
    words = [e["key"] for e in pod.get("matchExpressions", [])] or [
        key if value == "true" else value for key, value in pod.get("matchLabels", {}).items()
    ]
    if not words:
        return f"namespaces {where}"
    return f"pods {words[0]}" + (f" in {where}" if where and where != PLATFORM else "")


def opened(of_pod: dict[str, str], way: str, namespace: str = PLATFORM) -> set[Path_]:
    """What policies let a pod open (`Egress`) or be opened by (`Ingress`)."""
    side = {"Egress": ("egress", "to"), "Ingress": ("ingress", "from")}[way]
    found: set[Path_] = set()
    for spec in policies(namespace):
        if way not in spec["policyTypes"] or not chosen(spec["podSelector"], of_pod):
            continue
        for rule in spec.get(side[0], []):
            peers = [whom(p) for p in rule[side[1]]] if side[1] in rule else ["anybody"]
            found |= {(peer, p["port"]) for peer in peers for p in rule["ports"]}
    return found


def test_every_pod_is_in_the_table() -> None:
    assert OPENS.keys() == pods().keys()


@pytest.mark.parametrize("name", OPENS)
def test_a_pod_may_open_what_it_opens_and_nothing_else(name: str) -> None:
    assert opened(labels(pods()[name]), "Egress") == OPENS[name] | NAMES


def test_a_flow_that_asks_the_api_server_may_reach_it_too() -> None:
    asking = labels(pods()["flow-run"]) | {"mlplatform/asks-api-server": "true"}

    assert opened(asking, "Egress") == OPENS["flow-run"] | NAMES | API_SERVER


def test_predictors_open_nothing_but_where_their_bundles_lie() -> None:
    of_pod = {"serving.kserve.io/inferenceservice": "fraud-v1-00000000"}

    assert opened(of_pod, "Egress", MODELS) == NAMES | {HTTPS}


@pytest.mark.parametrize("name", OPENS)
def test_what_one_pod_opens_of_another_lets_it_in(name: str) -> None:
    """A path has two ends, and a policy at each."""
    caller = labels(pods()[name])
    names = {f"pods {value if value != 'true' else key}" for key, value in caller.items()}
    for server, number in OPENS[name]:
        if not server.startswith("pods mlplatform-"):
            continue
        called = {"app.kubernetes.io/name": server.removeprefix("pods ")}
        assert names & {who for who, p in opened(called, "Ingress") if p == number}, server


@pytest.mark.parametrize("name", OPENS)
def test_a_pod_lets_in_the_marked_namespaces_of_the_table_and_no_other(name: str) -> None:
    allowed = opened(labels(pods()[name]), "Ingress")

    assert {path for path in allowed if path[0].startswith("namespaces")} == LETS_IN.get(
        name, set()
    )


def mounted(name: str) -> set[tuple[str, str]]:
    """Secrets and their keys that a pod has as files."""
    return {
        (source["secret"]["name"], item["key"])
        for volume in pods()[name]["spec"].get("volumes", [])
        for source in volume.get("projected", {}).get("sources", [])
        for item in source["secret"]["items"]
    }


@pytest.mark.parametrize(
    ("secret", "key", "server"), [("postgres", "password", POSTGRES), ("redis", "password", REDIS)]
)
def test_who_has_a_servers_password_is_who_may_open_it(
    secret: str, key: str, server: Path_
) -> None:
    with_password = {n for n in pods() if (secret, key) in mounted(n)}
    databases_of_their_own = {"mlflow"} if secret == "postgres" else set()

    assert with_password == {n for n, o in OPENS.items() if server in o} - databases_of_their_own


def test_who_sends_spans_may_reach_the_collector() -> None:
    """Found in the code: a program that makes a sender sends."""
    calling = {
        path.parent.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if "span_sender(" in path.read_text() and path != SOURCE / "scoring/wiring.py"
    }
    pods_of = {
        "scoring/gateway": {"gateway", "gateway-more"},
        "scoring/worker": {"worker-fraud"},
        "operations/prefect_server": {"flow-run"},
    }
    of_argo = {
        "operations/compute"
    }  # their pods are in Argo's namespace, where these policies are not

    assert calling == pods_of.keys() | of_argo
    assert {n for n, o in OPENS.items() if COLLECTOR in o} == set().union(*pods_of.values())


def test_who_follows_topics_may_reach_kafka() -> None:
    opening = {
        path.parent.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if re.search(r"topics\.kafka(_group)? import|topics.wiring import", path.read_text())
    }

    assert opening - {"decisions/topics"} == {"scoring/worker", "decisions/replication"}
    assert {n for n, o in OPENS.items() if o >= KAFKA} == {
        *("worker-fraud", "gateway-more", "replicator"),
    }
