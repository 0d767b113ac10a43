"""Every process of platform/manifests/workloads as a pod, on servers beside the cluster, and the
way of a first version through them: history, a retrain by Prefect's worker, an approval, a
predictor of KServe's that answers. For `FULL=1 make test-cluster`, as their image takes minutes.

The installation is one of the last release, which then becomes this tree's under load. For CI,
`PART=upgrade` leaves the loss of a node out, and `PART=node-loss` the upgrade: there the
installation is this tree's from the beginning.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from tests.cluster import backup_pods, gateway_pods, node_loss, predictor_image, upgrade
from tests.cluster.last_release import LastReleaseMissing
from tests.cluster.layout import Layout
from tests.cluster.platform_pods import (
    BESIDE,
    FIRST,
    MODELS,
    READY_S,
    RUN_S,
    THIS,
    Platform,
    Release,
)
from tests.cluster.pod_load import DEADLINE_S, Load, load, payment

from mlplatform.observing.page.queries.sources import shipped_objectives
from mlplatform.observing.slo.objectives import seconds
from mlplatform.rollouts.kubernetes.api import INFERENCE_SERVICES, PODS
from mlplatform_client.answers import Answer
from mlplatform_client.client import Client
from support.kserve_world import installation, test_cluster
from support.platform_process import wait

MODEL: Final = "fraud"
ROLLOUT: Final = f"{MODEL}-v1-1"
PART: Final = os.environ.get("PART", "")
KEYS: Final = 200
"""Of one load, that are asked for again."""
AGAIN_S: Final = 20.0


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    _, place = test_cluster()
    if os.environ.get("FULL") != "1":  # an image that is there may be of other code
        pytest.skip("THE PLATFORM'S PODS ARE NOT TESTED: FULL=1 make test-cluster has their image")
    with installation(place):
        made = Platform(_first(place))
        if made.release is not THIS:
            upgrade.take_runtime(made)
        yield made
        made.close()


def _first(place: Layout) -> Release:
    """What is installed at first."""
    if PART == "node-loss":
        return THIS
    try:
        return upgrade.last(place)
    except LastReleaseMissing:
        return THIS


@pytest.fixture
def kafka(platform: Platform) -> None:
    if platform.servers.no_kafka:
        pytest.skip(f"MORE GATEWAYS AND BACKUPS ARE NOT TESTED: {platform.servers.no_kafka}")


def test_every_pod_is_ready_and_none_restarts(platform: Platform) -> None:
    platform.until_ready()

    restarts = {
        name: [c["restartCount"] for c in pod["status"]["containerStatuses"]]
        for name, pod in platform.pods().items()
        if name in (FIRST, *BESIDE)
    }
    assert restarts == {name: [0] for name in (FIRST, *BESIDE)}


def test_prefect_has_every_flow_and_a_pool_of_kubernetes(platform: Platform) -> None:
    platform.until_ready()
    auth = tuple(platform.at.secrets["prefect"]["auth"].split(":"))
    url = f"{platform.url('prefect')}/api"
    headers = {"Host": "prefect.mlplatform:4200"}

    with httpx.Client(base_url=url, headers=headers, auth=auth) as client:  # type: ignore[arg-type]
        pool = lambda: client.get("/work_pools/kubernetes").json()  # noqa: E731
        assert pool()["type"] == "kubernetes"
        wait(lambda: pool()["status"] == "READY", "the worker's first poll", within_s=READY_S)
        made = client.post("/deployments/filter", json={"limit": 200}).json()

    assert {"fraud-retrain", "fraud-rollout", "fraud-promote"} <= {d["name"] for d in made}
    assert {d["work_pool_name"] for d in made} == {"kubernetes"}


@pytest.mark.timeout(1200)  # seven runs of flows start one after the other, each as a Job
def test_a_first_version_is_trained_approved_and_answers_from_its_pod(platform: Platform) -> None:
    platform.until_ready()
    platform.command("history", "generate", MODEL, "--seed", "7")
    platform.command("retrain", MODEL, "--actor", "ana", "--reason", "first", "--rollout")
    key = ("--name", "bo", "--model", MODEL, "--scope", "approve", "--to", "/tmp/bo.key")
    platform.command("keys", "create", *key)

    platform.until_phase(ROLLOUT, "awaiting_approval")
    platform.approve(ROLLOUT)
    platform.until_phase(ROLLOUT, "promoted")

    answer = _until_the_champion_answers(platform)
    assert (answer["model"]["version"], answer["degraded"]) == (1, None)
    [service] = platform.api.items(INFERENCE_SERVICES.path(MODELS))
    assert service["metadata"]["name"] == f"{MODEL}-v1-{answer['model']['bundle'][:8]}"
    assert platform.asked("log", "explain", answer["decision_id"])["equal"]
    later = platform.post_and_poll(MODEL, payment())
    assert later["model"] == answer["model"]
    if platform.release is THIS:  # 0.3.0 finds no platform in another pod
        assert platform.command("status").startswith("ready")


def _until_the_champion_answers(platform: Platform) -> dict[str, Any]:
    """Its answer: its pod may be about to start, and the gateway about to hear of it."""
    answers: list[dict[str, Any]] = []

    def is_answered() -> bool:
        answers.append(platform.asked("score", MODEL, json.dumps(payment())))
        return bool(answers[-1]["answered_by"] == "champion")

    wait(is_answered, "an answer of the champion", within_s=READY_S)
    return answers[-1]


@pytest.mark.usefixtures("kafka")
def test_gateways_join_by_their_component_and_no_alert_on_the_log_would_fire(
    platform: Platform,
) -> None:
    platform.until_ready()
    gateway_pods.join(platform)

    limit_s = seconds(shipped_objectives().limits.watermark_behind)
    for writer in gateway_pods.GATEWAYS:  # they have answered nothing yet
        lag_s = partial(gateway_pods.lag_s, platform, writer)
        wait(lambda: lag_s() is not None, writer, within_s=READY_S)  # noqa: B023
        assert (lag_s() or 0.0) < limit_s, writer


@pytest.mark.timeout(1800)  # all pods stop and start
@pytest.mark.usefixtures("kafka")
def test_an_upgrade_from_the_last_release_under_load_fails_no_payment(platform: Platform) -> None:
    _skip_without_the_last_release(platform)
    platform.until_ready(*gateway_pods.MORE, "replicator")
    before = set(gateway_pods.decisions(platform, MODEL))
    with _load(platform) as sent:
        sent.until_more(200)
        of_before = dict(sent.answers)
        began = time.monotonic()
        upgrade.to_this_tree(platform)
        upgraded_s = time.monotonic() - began
        sent.until_more(100)
        _until_a_pass_has_counted_all_gateways(platform)
        counted_s = time.monotonic() - began

    print(f"upgrade: {sent.told()}, ready after {upgraded_s:.0f} s, a pass {counted_s:.0f} s")
    assert sent.failures == {}
    found = _each_answer_is_one_record(platform, before, sent)
    for name in gateway_pods.GATEWAYS:  # the last release's keys are in the home of who answered
        known = [key for key in of_before if found[of_before[key]][0].writer == name]
        _until_answers_are_those_of_before(platform, name, sent, known)
    answer = _until_the_champion_answers(platform)
    assert (answer["model"]["version"], answer["degraded"]) == (1, None)
    [predictor] = platform.api.items(PODS.path(MODELS))
    assert predictor["spec"]["containers"][0]["image"] == predictor_image.NAME
    for decision in (next(iter(of_before.values())), answer["decision_id"]):
        assert platform.asked("log", "explain", decision)["equal"]
    assert platform.post_and_poll(MODEL, payment())["model"] == answer["model"]


def _skip_without_the_last_release(platform: Platform) -> None:
    if PART == "node-loss":
        pytest.skip("THE UPGRADE IS NOT TESTED: PART=node-loss begins with this tree")
    try:
        upgrade.last(platform.place)
    except LastReleaseMissing as missing:
        pytest.skip(f"THE UPGRADE FROM THE LAST RELEASE IS NOT TESTED: {missing}")


@pytest.mark.timeout(1800)  # each gateway stops and starts twice
@pytest.mark.usefixtures("kafka")
def test_no_payment_fails_and_none_is_lost_while_gateways_go_and_come_back(
    platform: Platform,
) -> None:
    platform.until_ready(*gateway_pods.MORE)
    before = set(gateway_pods.decisions(platform, MODEL))
    with _load(platform) as sent:
        sent.until_more(100)
        gateway_pods.evict(platform, "gateway-more-1")
        sent.until_more(100)
        gateway_pods.restart_all(platform)
        _until_a_pass_has_counted_all_gateways(platform)
        _until_a_late_log_shows(platform)

    assert sent.failures == {}
    found = _each_answer_is_one_record(platform, before, sent)
    assert {found[decision][0].writer for decision in sent.answers.values()} == {
        *gateway_pods.GATEWAYS
    }


def _each_answer_is_one_record(
    platform: Platform, before: set[str], *loads: Load
) -> dict[str, list[gateway_pods.LoggedDecision]]:
    """What the first gateway's log has, which is whole.

    Args:
        before: decisions from before these loads.
    """
    answered = {decision for sent in loads for decision in sent.answers.values()}
    gateway_pods.until_replicated(platform, MODEL, answered)
    found = gateway_pods.decisions(platform, MODEL)
    assert {len(found[decision]) for decision in answered} == {1}
    # An answer that nobody got, as its gateway ended, was asked for again.
    others = set(found) - before - answered
    repeated_ms = {moment for sent in loads for moment in sent.repeated_ms()}
    assert {found[decision][0].event_ms for decision in others} <= repeated_ms
    report = gateway_pods.verified(platform)
    assert (report["ok"], report["writers"]) == (True, 3), report
    return found


def _until_answers_are_those_of_before(
    platform: Platform, name: str, sent: Load, keys: Iterable[str]
) -> None:
    """Asked again of this gateway's pod. One that is short of processors may decide alone, as Redis
    does not answer it in time: then the next try gets the answer of before (docs/cluster.md)."""
    with Client(platform.pod_url(name), platform.api_key()) as client:
        for key in keys:
            again = lambda: client.score(MODEL, sent.bodies[key], key=key).decision_id  # noqa: E731, B023
            wait(lambda: again() == sent.answers[key], f"the answer to {key}", within_s=AGAIN_S)  # noqa: B023


def _load(platform: Platform) -> AbstractContextManager[Load]:
    return load(platform.cluster, platform.url("gateway"), platform.api_key(), MODEL)


def _until_a_pass_has_counted_all_gateways(platform: Platform) -> None:
    """What they had answered before this is called."""
    wanted = gateway_pods.heads(platform, MODEL)
    assert set(wanted) == {*gateway_pods.GATEWAYS}

    def has_counted() -> bool:
        found = gateway_pods.counted(platform, MODEL)
        return all(found.get(writer, 0) >= seq for writer, seq in wanted.items())

    wait(has_counted, "a pass that counted the records of all gateways", within_s=RUN_S)


def _until_a_late_log_shows(platform: Platform) -> None:
    """Without a replicator, the others' records stay away; with one, they come."""
    first, other = gateway_pods.FIRST, gateway_pods.MORE[0]

    def lag_s(writer: str) -> float:
        found = gateway_pods.lag_s(platform, writer)
        assert found is not None
        return found

    gateway_pods.scale(platform, "deployment/replicator", 0)
    wait(lambda: lag_s(other) > 20.0 > lag_s(first), "a lag of one of them", within_s=READY_S)
    gateway_pods.scale(platform, "deployment/replicator", 1)
    wait(lambda: lag_s(other) < 10.0, "an end of that", within_s=READY_S)


@pytest.mark.timeout(1800)  # images are brought to another node, and its loss is seen after 50 s
@pytest.mark.usefixtures("kafka")
def test_a_lost_node_takes_no_record_and_no_key(platform: Platform) -> None:
    if PART == "upgrade":
        pytest.skip("THE LOSS OF A NODE IS NOT TESTED: PART=upgrade leaves it out")
    platform.until_ready(*gateway_pods.MORE, "replicator")
    with node_loss.second_node(platform) as second:
        before = set(gateway_pods.decisions(platform, MODEL))
        with _load(platform) as drained:
            node_loss.move_home(platform, second)
        assert drained.failures == {}
        with _load(platform) as sent:
            sent.until_more(100)
            lost_s = time.monotonic()
            platform.cluster.second.lose()
            node_loss.until_noticed(platform, second)
            noticed_s = time.monotonic()
            node_loss.give_up(platform, second)
            ready_s = time.monotonic()
            sent.until_more(100)
            _until_a_pass_has_counted_all_gateways(platform)
        last_s = max(sent.failures.values(), default=lost_s)
        told = {"noticed": noticed_s, "last failure": last_s, "ready": ready_s}
        told["a pass"] = time.monotonic()
        times = ", ".join(f"{name} {moment_s - lost_s:.0f} s" for name, moment_s in told.items())
        print(f"node lost: {sent.told()}; {times}")
        # Until then the Service keeps clients on the gateway that is lost.
        assert last_s < noticed_s + DEADLINE_S
        _each_answer_is_one_record(platform, before, drained, sent)
        keys = list(sent.answers)[:KEYS]
        for name in gateway_pods.GATEWAYS:
            _until_answers_are_those_of_before(platform, name, sent, keys)


@pytest.mark.timeout(1800)  # all pods stop and start
@pytest.mark.usefixtures("kafka")
def test_a_backup_starts_an_empty_installation_and_later_records_of_other_gateways_come(
    platform: Platform,
) -> None:
    platform.until_ready(*gateway_pods.MORE, "replicator")
    folder = backup_pods.install(platform)
    with _load(platform) as kept:
        kept.until_more(100)
    gateway_pods.until_replicated(platform, MODEL, kept.answers.values())
    body = payment()
    of_before = _asked_of_the_first(platform, body)
    taken = backup_pods.take(platform)
    assert [path.name for path in folder.iterdir()] == [Path(taken["backup"]).name]
    with _load(platform) as later:
        later.until_more(100)
    gateway_pods.until_replicated(platform, MODEL, later.answers.values())
    before = gateway_pods.decisions(platform, MODEL)

    backup_pods.lose(platform)
    restored = backup_pods.restore(platform, taken["backup"])

    assert restored["findings"] == []
    assert (restored["verified"]["findings"], restored["verified"]["writers"]) == ([], 3)
    assert restored["contents"]["champions"][MODEL] == 1
    # Of what came later, the first gateway's is gone with its volume, and the others' comes again.
    came = {d for d in later.answers.values() if before[d][0].writer != gateway_pods.FIRST}
    gateway_pods.until_replicated(platform, MODEL, {*kept.answers.values(), *came})
    found = gateway_pods.decisions(platform, MODEL)
    assert came
    assert set(later.answers.values()) & set(found) == came
    assert {len(found[decision]) for decision in kept.answers.values()} == {1}
    assert gateway_pods.verified(platform)["ok"]
    again = _asked_of_the_first(platform, body)
    assert (again.decision_id, again.replayed) == (of_before.decision_id, True)
    platform.command("materialize", MODEL)
    _until_the_champion_answers(platform)
    assert platform.post_and_poll(MODEL, payment())["model"]["version"] == 1


def _asked_of_the_first(platform: Platform, body: dict[str, Any]) -> Answer:
    """Under one key, of the gateway whose home has it."""
    with Client(platform.url("gateway-first"), platform.api_key()) as client:
        return client.score(MODEL, body, key="of-the-first-gateway")
