"""The InferenceService of a bundle version: what it says, and what is refused in one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlplatform.model.folders import load_definition
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.rollouts.serving.local import bundle_folder, bundle_uri
from mlplatform.rollouts.serving.manifest import Service, read, render, render_examples
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime.errors import ConfigInvalid, Refused

DIGEST = "0123456789abcdef" * 4
FRAUD = load_definition("fraud")
URI = "file:///bundles/x"


def manifest() -> dict[str, Any]:
    return render(FRAUD, 7, DIGEST, URI)


@pytest.mark.parametrize("uri", [URI, "bundle:x", "pvc://claim/x"])
def test_a_manifest_names_its_bundle_by_any_uri(uri: str) -> None:
    assert read(render(FRAUD, 7, DIGEST, uri)).storage_uri == uri


def test_a_manifest_says_what_is_read_from_it() -> None:
    assert read(manifest()) == Service(
        "fraud-v7-01234567",
        "fraud",
        7,
        DIGEST,
        URI,
        (
            "--accelerator=cpu",
            "--queue-limit=256",
            "--batch-rows=1024",
            "--batch-delay-us=300",
        ),
        memory_bytes=512 * 1024**2,
        load_deadline_s=60,
    )


def test_rendering_is_pure() -> None:
    assert manifest() == manifest()


def test_a_cluster_with_little_room_runs_fewer_pods_than_the_tier_asks_for() -> None:
    of_tier, one = manifest(), render(FRAUD, 7, DIGEST, URI, replicas=1)

    assert of_tier["spec"]["predictor"]["minReplicas"] == 2
    assert one["spec"]["predictor"]["minReplicas"] == 1


def test_kserve_makes_no_route_for_a_service() -> None:
    metadata = manifest()["metadata"]

    assert metadata["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    assert metadata["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"


def test_of_probes_only_the_time_to_load_is_the_models() -> None:
    definition = msgspec.structs.replace(
        FRAUD, serving=msgspec.structs.replace(FRAUD.serving, load_deadline_s=300)
    )

    model = render(definition, 7, DIGEST, URI)["spec"]["predictor"]["model"]

    assert [key for key in model if "Probe" in key] == ["startupProbe"]
    probe = model["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 300
    assert probe["httpGet"]["path"] == "/v2/models/fraud-v7-01234567/ready"


def test_a_large_bundle_may_take_longer_to_load_on_every_plane() -> None:
    large = render(FRAUD, 7, DIGEST, URI, bundle_bytes=6_000_000_000)

    assert large["spec"]["predictor"]["model"]["startupProbe"]["failureThreshold"] == 60 + 120
    assert read(large).load_deadline_s == 180


@pytest.mark.parametrize("allowed", [-1, 1e9, "60", 24 * 3600 + 1])
def test_a_time_to_load_that_nobody_waits_for_is_refused(allowed: object) -> None:
    wrong = manifest()
    wrong["spec"]["predictor"]["model"]["startupProbe"]["failureThreshold"] = allowed
    with pytest.raises(ConfigInvalid, match=r"startupProbe\.failureThreshold"):
        read(wrong)


@pytest.mark.parametrize(
    ("accelerator", "gpus"), [("cpu", None), ("gpu", "1"), ("cuda", "1"), ("tensorrt", "1")]
)
def test_a_gpu_is_asked_for_where_the_model_needs_one(accelerator: str, gpus: str | None) -> None:
    definition = msgspec.structs.replace(FRAUD, accelerator=accelerator)

    resources = render(definition, 1, DIGEST, URI)["spec"]["predictor"]["model"]["resources"]

    assert resources["limits"].get("nvidia.com/gpu") == gpus
    assert resources["requests"].get("nvidia.com/gpu") == gpus


def test_a_split_by_kserve_is_refused_with_the_reason() -> None:
    asked = manifest()
    asked["spec"]["canary"] = [{"trafficPercent": 10}]

    with pytest.raises(Refused, match=r"spec\.canary is refused: KServe routes nothing"):
        read(asked)


@pytest.mark.parametrize("component", ["predictor", "transformer", "explainer"])
def test_a_canary_percent_is_refused_wherever_it_stands(component: str) -> None:
    asked = manifest()
    asked["spec"].setdefault(component, {})["canaryTrafficPercent"] = 10

    with pytest.raises(Refused, match=rf"spec\.{component}\.canaryTrafficPercent"):
        read(asked)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("apiVersion",), "serving.kserve.io/v1alpha1", "apiVersion"),
        (("kind",), "Deployment", "kind"),
        (("metadata", "name"), "fraud", r"metadata\.name"),
        (("metadata", "name"), None, r"metadata\.name"),
        (("metadata", "annotations", "mlplatform/bundle-digest"), "f" * 64, "bundle-digest"),
        (("spec", "predictor", "model", "runtime"), "Triton of KServe", "runtime"),
        (("spec", "predictor", "model", "storageUri"), "/bundles", "storageUri"),
    ],
)
def test_another_manifest_is_refused_by_key(
    path: tuple[str, ...], value: object, named: str
) -> None:
    asked = copy.deepcopy(manifest())
    at = asked
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value

    with pytest.raises(ConfigInvalid, match=named):
        read(asked)


@pytest.mark.parametrize(
    "text", ["fraud", "fraud-v0-01234567", "fraud-v1-0123456", "../x-v1-01234567"]
)
def test_what_is_no_service_name(text: str) -> None:
    assert ServiceName.parse(text) is None


def test_a_service_name_survives_parsing() -> None:
    name = ServiceName.of("card-fraud", 12, DIGEST)

    assert str(name) == "card-fraud-v12-01234567"
    assert ServiceName.parse(str(name)) == name
    assert name.names("card-fraud", DIGEST)
    assert not name.names("fraud", DIGEST)


BUNDLES = Path("/home/bundles")


def test_a_bundle_folder_may_have_a_space_in_its_path() -> None:
    assert bundle_folder("file:///a/b%20c", BUNDLES) == BUNDLES / "b c"


@pytest.mark.parametrize(
    "uri",
    [
        *("s3://bucket/x", "file://host/x", "file://", "bundle:", "bundle:../x", "bundle:a/b"),
        *("bundle:..", "bundle:%2e%2e", "bundle://host/x", "bundle:.hidden"),
        *("file:///home/secrets/..", "file:///home/bundles/", "file:///bundles/a%2f.."),
    ],
)
def test_only_folders_of_this_machine_are_served_locally(uri: str) -> None:
    with pytest.raises(ConfigInvalid, match="storageUri"):
        bundle_folder(uri, BUNDLES)


@pytest.mark.parametrize("name", ["0ab", "a b", "50%"])
def test_a_bundle_of_a_home_is_named_without_a_path(name: str) -> None:
    uri = bundle_uri(BUNDLES / name, BUNDLES)

    assert uri.startswith("bundle:")
    assert "/" not in uri
    assert bundle_folder(uri, Path("/moved")) == Path("/moved") / name


def test_a_folder_outside_of_the_home_is_no_bundle_of_it() -> None:
    with pytest.raises(ConfigInvalid, match="bundle"):
        bundle_uri(Path("/elsewhere/0ab"), BUNDLES)


def test_a_path_of_a_former_home_leads_to_this_one_even_where_its_bundle_is_missing(
    tmp_path: Path,
) -> None:
    former = tmp_path / "former" / "bundles" / "0cd"
    former.mkdir(parents=True)

    assert bundle_folder(former.as_uri(), tmp_path / "here") == tmp_path / "here" / "0cd"


def test_examples_say_first_that_they_are_generated() -> None:
    for text in render_examples().values():
        assert text.startswith("# Generated by mlplatform.rollouts.serving.manifest")


@pytest.mark.parametrize("arg", ["--host=0.0.0.0", "--token-file=/x", "--batch-rows=-1", 7])
def test_a_manifest_cannot_move_a_predictors_listeners_or_its_token(arg: object) -> None:
    asked = manifest()
    asked["spec"]["predictor"]["model"]["args"] = [arg]

    with pytest.raises(ConfigInvalid, match="args"):
        read(asked)


def test_a_manifest_from_before_there_were_arguments_is_still_read() -> None:
    asked = manifest()
    del asked["spec"]["predictor"]["model"]["args"]

    assert read(asked).args == ()


SERVER = ModelServer(
    runtime="bank-xgboost",
    format="xgboost/2",
    storage="s3://models/fraud/3",
    address="http://models.example.com:9000",
    served_as="fraud",
    labels={"modelClass": "mlserver_xgboost.XGBoostModel", "mlplatformteam": "x"},
    tolerance=1e-4,
)


def test_another_servers_manifest_names_its_runtime_and_artefact_and_no_arguments_of_ours() -> None:
    rendered = render(FRAUD, 7, DIGEST, URI, server=SERVER)
    model = rendered["spec"]["predictor"]["model"]
    assert {key: model[key] for key in ("runtime", "modelFormat", "storageUri")} == {
        "runtime": "bank-xgboost",
        "modelFormat": {"name": "xgboost", "version": "2"},
        "storageUri": "s3://models/fraud/3",
    }
    assert "args" not in model
    assert model["startupProbe"]["httpGet"]["path"] == "/v2/models/fraud/ready"
    assert rendered["metadata"]["labels"]["modelClass"] == "mlserver_xgboost.XGBoostModel"
    found = read(rendered)
    assert (found.runtime, found.storage_uri) == ("bank-xgboost", "s3://models/fraud/3")
    assert (found.address, found.is_own) == ("http://models.example.com:9000", False)


@pytest.mark.parametrize(
    "address",
    [
        "https://a:1",
        "http://a",
        "http://a:1/v2",
        "http://a:b@c:1",
        "http://a:0",
        "http://a:65536",
        "http://a:80801",
        "http://a..b:1",
        "http://a.:1",
        f"http://{'a' * 64}:1",
        f"http://{'a.' * 126}aa:1",
        "http://a:1\n",
        7,
    ],
)
def test_an_address_is_a_host_and_a_port(address: object) -> None:
    rendered = render(FRAUD, 7, DIGEST, URI, server=SERVER)
    rendered["metadata"]["annotations"]["mlplatform/address"] = address
    with pytest.raises(ConfigInvalid, match=r"mlplatform/address .* a port up to 65535"):
        read(rendered)


@pytest.mark.parametrize(
    "address", ["http://a:1", "http://10.0.0.7:65535", f"http://{'a.' * 126}a:59999"]
)
def test_a_host_of_any_length_that_names_have_is_one(address: str) -> None:
    rendered = render(FRAUD, 7, DIGEST, URI, server=SERVER)
    rendered["metadata"]["annotations"]["mlplatform/address"] = address
    assert read(rendered).address == address


def test_the_platforms_own_predictor_has_no_address() -> None:
    rendered = manifest()
    rendered["metadata"]["annotations"]["mlplatform/address"] = "http://a:1"
    with pytest.raises(ConfigInvalid, match="another server"):
        read(rendered)
