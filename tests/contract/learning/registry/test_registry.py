"""What every registry promises, held against a real MLflow tracking server."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from botocore.exceptions import ClientError
from tests.servers.instances import behind
from tests.servers.proxy import Proxy

from mlplatform.learning.registry.mlflow import MlflowRegistry, _tags
from mlplatform.learning.registry.versions import Rejection, Version, VersionFacts
from mlplatform.model.bundle import (
    MODEL_FILE,
    AlertBand,
    Bundle,
    BundleCorrupt,
    DataWindow,
    Golden,
    load_bundle,
    write_bundle,
)
from mlplatform.model.definition import InputSpec
from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.profile import Column, Profile
from mlplatform.model.rules import Reason
from mlplatform.model.weights.data_files import DataFile
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Corrupt, NotFound, Refused, Unavailable
from mlplatform.runtime.storage import addresses
from support.mlflow_process import mlflow_server
from support.scoring_world import wait_for

pytestmark = pytest.mark.slow

TOKEN = "the token of this test"
COLUMN = Column(
    edges=(1.0,), shares=(0.5, 0.5), quantiles=(1.0,) * 100, mean=1.0, std=1.0, missing_share=0.0
)


def bundle_of(seed: int, model: str = "fraud") -> tuple[Bundle, bytes]:
    content = f"model {seed}".encode()
    made = Bundle(
        model=model,
        inputs=(InputSpec(name="amount", kind="field", of="amount"),),
        calibration=Calibration(x=(0.0, 1.0), y=(0.0, 1.0)),
        thresholds={"review": 0.5, "decline": 0.9},
        reasons={"amount": Reason(code="AMOUNT", customer="The amount", analyst="Amount")},
        rules=(),
        reference={"amount": 50.0},
        golden=Golden(rows=((None,),), scores=(0.5,), tolerance=1e-5),
        views=(),
        profile=Profile(rows=1, units=1, alert_share=0.1, inputs={"amount": COLUMN}, score=COLUMN),
        alert_band=AlertBand(low=0.01, high=0.2, share=0.1, how="by hand"),
        data=DataWindow(
            from_ms=0,
            holdout_from_ms=1,
            gates_from_ms=2,
            to_ms=3,
            as_of_ms=4,
            rows=5,
            digest="data",
        ),
        seed=seed,
        origin="a test",
        files={MODEL_FILE: digest(content)},
    )
    return made, content


def facts_of(bundle: Bundle, *, passed: bool = True) -> VersionFacts:
    verdict = "passed" if passed else "failed"
    gate = {"name": "latency", "verdict": verdict, "observed": 1, "limit": 2, "reason": "measured"}
    return VersionFacts(
        bundle=bundle.digest,
        data_from_ms=bundle.data.from_ms,
        data_to_ms=bundle.data.to_ms,
        data_digest=bundle.data.digest,
        code_version="1",
        metrics={"latency": 1.0},
        report={"passed": passed, "gates": [gate]},
        author="somebody",
        reason="new terminals",
        validated=passed,
        alert_low=0.01,
        alert_high=0.2,
        seed=bundle.seed,
    )


def written(folder: Path, seed: int, model: str = "fraud") -> tuple[Path, Bundle]:
    bundle, content = bundle_of(seed, model)
    write_bundle(bundle, content, folder / bundle.digest)
    return folder / bundle.digest, bundle


SERVERS = pytest.param("servers", marks=[pytest.mark.postgres, pytest.mark.s3])


@dataclass(frozen=True)
class Place:
    """Where a registry keeps what it is given: in files, or on servers behind a proxy."""

    variables: dict[str, str]
    postgres: Any = None
    s3: Any = None
    to_postgres: Proxy | None = None
    to_s3: Proxy | None = None


@pytest.fixture(scope="module", params=["files", SERVERS])
def place(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    home = {"MLPLATFORM_HOME": str(folder)}
    if request.param == "files":
        yield Place(home)
        return
    postgres, s3 = (request.getfixturevalue(name) for name in ("postgres", "s3"))
    database, bucket = postgres.database(), s3.bucket()
    endpoint = s3.environment["AWS_ENDPOINT_URL_S3"]
    with Proxy(database.port) as to_postgres, Proxy(urlsplit(endpoint).port) as to_s3:
        variables = {
            **home,
            **addresses.variables("MLPLATFORM_MLFLOW_POSTGRES", behind(to_postgres, database)),
            "MLPLATFORM_MLFLOW_ARTIFACTS": f"s3://{bucket}/mlflow",
            **s3.environment,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{to_s3.port}",
        }
        yield Place(variables, postgres, s3, to_postgres, to_s3)
    postgres.drop(database)


@pytest.fixture(scope="module")
def uri(place):
    """The platform's own MLflow server, as its supervisor starts it."""
    with mlflow_server(place.variables, TOKEN) as address:
        yield address


@pytest.fixture
def registry(uri):
    return MlflowRegistry(uri, TOKEN)


@pytest.fixture
def theirs(uri, monkeypatch):
    """MLflow's own client, which a person may use beside ours."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    return MlflowClient(uri, registry_uri=uri)


def test_a_validated_bundle_becomes_a_version_with_its_facts(registry, tmp_path):
    folder, bundle = written(tmp_path, 1, "facts")
    facts = facts_of(bundle)
    version = registry.register(folder, facts)
    assert isinstance(version, Version)
    assert (version.model, version.version, version.digest) == ("facts", 1, bundle.digest)
    assert version.facts == facts
    assert registry.get("facts", 1) == version


def test_facts_longer_than_a_run_has_room_for_are_those_of_the_version(registry, tmp_path):
    """A tag of a run has 8,000 characters on PostgreSQL, and a report of many gates has more."""
    folder, bundle = written(tmp_path, 1, "long")
    facts = facts_of(bundle)
    [gate] = facts.report["gates"]
    long = [{**gate, "name": f"gate {number}", "reason": "measured " * 30} for number in range(40)]
    facts = msgspec.structs.replace(facts, report={"passed": True, "gates": long})
    version = registry.register(folder, facts)
    assert isinstance(version, Version)
    assert registry.get("long", version.version).facts == facts


def test_mlflows_own_client_finds_the_run_the_report_and_the_bundle(registry, theirs, tmp_path):
    folder, bundle = written(tmp_path / "made", 1, "theirs")
    version = registry.register(folder, facts_of(bundle))
    run = theirs.get_run(version.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", f"theirs-v1-{bundle.digest[:8]}")
    assert run.info.end_time >= run.info.start_time > 0
    assert (run.data.metrics, run.data.tags["author"]) == ({"gates/latency": 1.0}, "somebody")
    assert run.data.tags["reason"] == "new terminals"
    (tmp_path / "theirs").mkdir()
    report = theirs.download_artifacts(version.run_id, "gates.json", str(tmp_path / "theirs"))
    assert msgspec.json.decode(Path(report).read_bytes()) == facts_of(bundle).report
    source = theirs.get_model_version("theirs", "1").source
    assert source == f"{run.info.artifact_uri}/bundle"
    fetched = theirs.download_artifacts(version.run_id, "bundle", str(tmp_path / "theirs"))
    assert load_bundle(Path(fetched), bundle.digest) == bundle


def test_a_version_that_mlflows_own_client_made_is_fetched(registry, theirs, tmp_path):
    """As releases until 0.2.0 did."""
    folder, bundle = written(tmp_path / "made", 1, "former")
    tags = {tag["key"]: tag["value"] for tag in _tags(facts_of(bundle), "validated")}
    theirs.create_registered_model("former")
    run_id = theirs.create_run(theirs.create_experiment("former"), tags=tags).info.run_id
    theirs.log_artifacts(run_id, str(folder), "bundle")
    theirs.set_terminated(run_id)
    source = f"runs:/{run_id}/bundle"
    theirs.create_model_version("former", source, run_id, tags=tags, await_creation_for=0)
    assert load_bundle(registry.fetch("former", 1, tmp_path), bundle.digest) == bundle
    assert registry.register(folder, facts_of(bundle)) == registry.get("former", 1)


def test_registering_a_bundle_again_gives_the_version_that_it_has(registry, tmp_path):
    folder, bundle = written(tmp_path, 1, "again")
    first = registry.register(folder, facts_of(bundle))
    assert registry.register(folder, facts_of(bundle)) == first
    assert registry.versions("again") == [first]


def test_two_registrations_at_once_leave_one_version(registry, tmp_path):
    folder, bundle = written(tmp_path, 1, "twice")
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(registry.register, folder, facts_of(bundle)) for _ in range(4)]
        versions = {job.result().version for job in jobs}
    assert len(versions) == 1
    assert [v.version for v in registry.versions("twice")] == list(versions)


def test_versions_are_listed_newest_first(registry, tmp_path):
    for seed in (1, 2):
        folder, bundle = written(tmp_path, seed, "listed")
        registry.register(folder, facts_of(bundle))
    assert [v.version for v in registry.versions("listed")] == [2, 1]
    assert registry.versions("never-registered") == []


def test_a_rejected_candidate_is_recorded_but_never_a_version(registry, tmp_path):
    folder, bundle = written(tmp_path, 1, "rejected")
    outcome = registry.register(folder, facts_of(bundle, passed=False))
    assert isinstance(outcome, Rejection)
    assert outcome.reasons == ("latency: measured",)
    assert registry.versions("rejected") == []
    with pytest.raises(NotFound):
        registry.get("rejected", 1)
    assert registry.register(folder, facts_of(bundle, passed=False)) == outcome


def test_a_report_that_did_not_pass_outweighs_the_word_validated(registry, tmp_path):
    folder, bundle = written(tmp_path, 1, "word")
    facts = msgspec.structs.replace(facts_of(bundle, passed=False), validated=True)
    assert isinstance(registry.register(folder, facts), Rejection)


def test_a_fetched_bundle_is_the_one_registered(registry, tmp_path):
    folder, bundle = written(tmp_path / "made", 1, "fetched")
    version = registry.register(folder, facts_of(bundle)).version
    into = tmp_path / "bundles"
    fetched = registry.fetch("fetched", version, into)
    assert fetched == into / bundle.digest
    assert load_bundle(fetched, bundle.digest) == bundle
    assert registry.fetch("fetched", version, into) == fetched
    assert [f.name for f in into.iterdir()] == [bundle.digest]


def test_weights_beside_a_graph_come_back_once_for_two_versions(registry, tmp_path):
    (weights := tmp_path / "weights.bin").write_bytes(bytes(range(256)) * 20_000)
    data = DataFile(weights, weights.stat().st_size, digest(weights.read_bytes()))
    into, fetched = tmp_path / "bundles", []
    for seed in (1, 2):
        plain, content = bundle_of(seed, "heavy")
        files = plain.files | {data.name: data.sha256}
        bundle = msgspec.structs.replace(plain, files=files)
        folder = tmp_path / "made" / bundle.digest
        write_bundle(bundle, content, folder, data=(data,))
        version = registry.register(folder, facts_of(bundle)).version
        fetched.append(registry.fetch("heavy", version, into) / data.name)
    assert fetched[0].read_bytes() == weights.read_bytes()
    assert fetched[1].samefile(fetched[0])


def test_a_bundle_changed_in_the_store_is_not_fetched(registry, theirs, tmp_path):
    folder, bundle = written(tmp_path / "made", 1, "changed")
    version = registry.register(folder, facts_of(bundle))
    broken = tmp_path / MODEL_FILE
    broken.write_bytes(b"another model")
    theirs.log_artifact(version.run_id, str(broken), "bundle")
    with pytest.raises(BundleCorrupt, match=MODEL_FILE):
        registry.fetch("changed", version.version, tmp_path / "bundles")
    assert list((tmp_path / "bundles").iterdir()) == []


def test_a_folder_that_is_not_the_bundle_of_the_facts_is_refused(registry, tmp_path):
    folder, _ = written(tmp_path, 1, "other")
    other, _ = bundle_of(2, "other")
    with pytest.raises(BundleCorrupt):
        registry.register(folder, facts_of(other))
    assert registry.versions("other") == []


def test_an_alias_shows_the_last_version_that_it_was_pointed_at(registry, theirs, tmp_path):
    for seed in (1, 2):
        folder, bundle = written(tmp_path, seed, "alias")
        registry.register(folder, facts_of(bundle))
    for version in (2, 2, 1):
        registry.show("alias", "champion", version)
        shown = theirs.get_model_version_by_alias("alias", "champion")
        assert int(shown.version) == version


def test_what_does_not_exist_is_not_found(registry):
    with pytest.raises(Unavailable, match="alias"):
        registry.show("no-such-model", "champion", 1)
    with pytest.raises(NotFound):
        registry.get("no-such-model", 1)
    with pytest.raises(NotFound):
        registry.fetch("no-such-model", 1, Path("nowhere"))


def test_a_version_made_by_hand_is_not_deployable(registry, theirs, tmp_path):
    folder, bundle = written(tmp_path, 1, "byhand")
    made = registry.register(folder, facts_of(bundle))
    theirs.create_model_version(
        "byhand", source=f"runs:/{made.run_id}/bundle", run_id=made.run_id, await_creation_for=0
    )
    assert [v.version for v in registry.versions("byhand")] == [1]
    with pytest.raises(NotFound):
        registry.get("byhand", 2)


def test_a_registry_that_does_not_answer_is_unavailable(tmp_path):
    folder, bundle = written(tmp_path, 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        registry = MlflowRegistry(f"http://127.0.0.1:{closed.getsockname()[1]}")
        for call in (
            lambda: registry.versions("fraud"),
            lambda: registry.get("fraud", 1),
            lambda: registry.register(folder, facts_of(bundle)),
            lambda: registry.fetch("fraud", 1, tmp_path),
        ):
            with pytest.raises(Unavailable):
                call()


def test_mlflow_is_not_imported(uri: str) -> None:
    """It takes seconds, unpickles, reports usage, and lets any package add headers of its own."""
    asked = (
        "import sys; from mlplatform.learning.registry.mlflow import MlflowRegistry;"
        f"print(MlflowRegistry({uri!r}, {TOKEN!r}).versions('nobody'), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert done.stdout == "[] False\n", done.stderr


def test_a_server_that_keeps_artifacts_elsewhere_is_refused_by_name(registry):
    elsewhere = {"run_id": "1", "artifact_uri": "s3://bank/mlflow/1/artifacts"}
    with pytest.raises(Refused, match="s3://bank"):
        registry._artifacts(elsewhere)


def test_a_name_that_leads_out_of_the_folder_is_not_written(registry, tmp_path, monkeypatch):
    run = {"run": {"info": {"artifact_uri": "mlflow-artifacts:/1/2/artifacts"}}}
    listed = httpx.Response(200, json={"files": [{"path": "../evil"}]})
    monkeypatch.setattr(registry, "_get", lambda *_, **__: run)
    monkeypatch.setattr(registry, "_call", lambda *_, **__: listed)
    with pytest.raises(Corrupt, match="evil"):
        registry._download("2", tmp_path / "here")


@contextlib.contextmanager
def away(proxy: Proxy) -> Iterator[None]:
    """What is behind the proxy can't be reached for a while, whatever happens meanwhile."""
    proxy.refuse()
    try:
        yield
    finally:
        proxy.forward()


def test_while_a_server_behind_the_registry_is_away_it_is_unavailable(registry, place, tmp_path):
    if place.s3 is None:
        pytest.skip("files do not go away")
    folder, bundle = written(tmp_path, 9, "outage")
    version = registry.register(folder, facts_of(bundle)).version
    with away(place.to_s3), pytest.raises(Unavailable):
        registry.fetch("outage", version, tmp_path / "away")
    assert load_bundle(registry.fetch("outage", version, tmp_path / "back"), bundle.digest)
    with away(place.to_postgres), pytest.raises(Unavailable):
        registry.get("outage", version)
    assert registry.get("outage", version).digest == bundle.digest


def test_what_is_on_servers_outlives_their_deaths_and_is_nowhere_else(registry, place, tmp_path):
    if place.s3 is None or place.s3.server is None or place.postgres.server is None:
        pytest.skip("the servers are not ours to stop")
    folder, bundle = written(tmp_path, 10, "restart")
    version = registry.register(folder, facts_of(bundle)).version
    for server in (place.postgres.server, place.s3.server):
        server.kill()
        server.start()

    def back() -> Path | None:
        """An object store that takes connections may not have found its volumes yet."""
        with contextlib.suppress(Unavailable):
            return registry.fetch("restart", version, tmp_path / "back")
        return None

    assert load_bundle(wait_for(back), bundle.digest)
    home = Home(Path(place.variables["MLPLATFORM_HOME"]))
    assert list(home.mlflow.iterdir()) == []
    password = place.postgres.address.password()
    assert password not in (home.root / "server.log").read_text()


@pytest.mark.s3
def test_the_object_store_refuses_a_wrong_secret_and_keeps_what_is_there(s3):
    bucket = s3.bucket()
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.client().put_object(Bucket=bucket, Key="a", Body=b"second", IfNoneMatch="*")
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|403"):
        s3.client(AWS_SECRET_ACCESS_KEY="wrong").get_object(Bucket=bucket, Key="a")
    assert s3.client().get_object(Bucket=bucket, Key="a")["Body"].read() == b"first"
