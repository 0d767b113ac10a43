"""What `components/gateways` adds to the platform's pods, and what is known of their logs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from tests.cluster import volumes
from tests.cluster.platform_pods import FIRST, MORE, Platform, is_ready, secret
from tests.cluster.volumes import NAMESPACE

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.rollouts.passes import count_store
from support.platform_process import wait

GATEWAYS: Final = (FIRST, *MORE)
SOON_S: Final = 120.0
"""For what takes a second where nobody else uses the processors."""


def join(platform: Platform) -> None:
    """As docs/cluster.md has it: the first gateway's pseudonym key as a Secret, then the overlay
    with the component."""
    key = (platform.home / "home" / "secrets" / "pseudonym.key").read_bytes()
    for name in MORE:
        volumes.empty_folder(platform.place, f"home-{name}")
        platform.apply(volumes.of_claim(platform.place, f"home-{name}"))
    platform.apply(secret("pseudonym", {"key": key}))
    platform.apply_overlay("gateways")
    platform.until_ready(*MORE, "replicator")


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """A decision's record: whose it is, its number, and when its payment happened, epoch ms."""

    writer: str
    seq: int
    event_ms: int


def decisions(platform: Platform, model: str) -> dict[str, list[LoggedDecision]]:
    """Decision id → its records in the first gateway's log."""
    columns = ("decision_id", "writer", "seq", "event_ms")
    with closing(SqliteDecisionLog(platform.home / "home" / "decisions")) as log:
        query = RecordQuery(model=model, kinds=("decision",), columns=columns)
        table: pa.Table = log.read(query)
    found: dict[str, list[LoggedDecision]] = {}
    for row in table.to_pylist():
        one = LoggedDecision(row["writer"], row["seq"], row["event_ms"])
        found.setdefault(row["decision_id"], []).append(one)
    return found


def heads(platform: Platform, model: str) -> dict[str, int]:
    """Writer → the number of its last decision in the first gateway's log."""
    found: dict[str, int] = {}
    for records in decisions(platform, model).values():
        for one in records:
            found[one.writer] = max(one.seq, found.get(one.writer, 0))
    return found


def counted(platform: Platform, model: str) -> dict[str, int]:
    """Writer → the number up to which passes have counted its records of the champion's routes."""
    found: dict[str, int] = {}
    for path in (platform.home / "home" / "counted" / model).glob("champion-*.db"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            found |= count_store.load(db).position
    return found


def until_replicated(platform: Platform, model: str, answered: Iterable[str]) -> None:
    """Returns once the first gateway's log has all of these decisions."""
    wanted = set(answered)
    missing = lambda: wanted - set(decisions(platform, model))  # noqa: E731
    wait(lambda: not missing(), "all decisions in the home's log", within_s=SOON_S)


def verified(platform: Platform) -> dict[str, Any]:
    """What `mlplatform log verify` says."""
    found: dict[str, Any] = json.loads(platform.command("log", "verify", "--json"))
    return found


def evict(platform: Platform, name: str) -> None:
    """As a drain of its node does, within the disruption budget; returns once it is back."""
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}"
    uid = platform.api.get(path)["metadata"]["uid"]
    metadata = {"name": name, "namespace": NAMESPACE}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    platform.api.create(f"{path}/eviction", body)
    until_back(platform, {name: uid})


def restart_all(platform: Platform) -> None:
    """A rolling restart of all gateways, as after a new image; returns once it is over."""
    uids = {name: (platform.pod(name) or {})["metadata"]["uid"] for name in GATEWAYS}
    for name in ("gateway", "gateway-more"):
        platform.kubectl("rollout", "restart", f"statefulset/{name}", "-n", NAMESPACE)
    until_back(platform, uids)


def until_back(platform: Platform, uids: dict[str, str]) -> None:
    """Returns once pods of these names are ready that are not those of these uids."""

    def is_back(name: str) -> bool:
        pod = platform.pod(name)
        return pod is not None and pod["metadata"]["uid"] != uids[name] and is_ready(pod)

    wait(lambda: all(map(is_back, uids)), f"{sorted(uids)} again", within_s=300.0)


def lag_s(platform: Platform, writer: str) -> float | None:
    """How far a writer is behind event time, as alert LogBehind reads it: seconds; None while the
    log has nothing of it."""
    shown = platform.metrics()
    mark = shown.get(f'mlplatform_log_watermark_seconds{{writer="{writer}"}}')
    return None if mark is None else shown["mlplatform_event_time_seconds"] - mark


def scale(platform: Platform, name: str, replicas: int) -> None:
    """A Deployment or StatefulSet, to so many pods."""
    platform.kubectl("scale", "-n", NAMESPACE, name, f"--replicas={replicas}")
