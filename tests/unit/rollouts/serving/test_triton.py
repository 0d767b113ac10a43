"""Triton's configuration: what model.yaml says, in the words of its protocol buffers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tests.support.onnx_bundles import sigmoid_bundle

from mlplatform.model.bundle import MODEL_FILE, BundleCorrupt
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.serving import triton

FRAUD = load_definition("fraud")


def model_config() -> Any:
    """Triton's messages alone: the package around them has inference messages by names that other
    packages use too, and one process takes each name once."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("triton_model_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pb = model_config()
SERVICE = "fraud-v7-01234567"


def config(**changes: Any) -> Any:
    definition = msgspec.structs.replace(FRAUD, **{"accelerator": "cuda", **changes})
    return text_format.Parse(
        triton.config(definition, SERVICE, len(FRAUD.inputs)), pb.ModelConfig()
    )


def serving(**changes: Any) -> Any:
    return msgspec.structs.replace(FRAUD.serving, **changes)


def test_a_model_takes_a_row_of_its_inputs_and_gives_a_score() -> None:
    found = config()

    [taken], [given_back] = found.input, found.output
    assert (found.name, found.backend) == (SERVICE, "onnxruntime")
    assert (taken.name, taken.data_type, list(taken.dims)) == (
        "inputs",
        pb.TYPE_FP32,
        [len(FRAUD.inputs)],
    )
    assert (given_back.name, list(given_back.dims)) == ("scores", [1])
    assert given_back.HasField("reshape")
    assert list(given_back.reshape.shape) == []
    assert found.default_model_filename == MODEL_FILE
    assert list(found.version_policy.specific.versions) == [1]


def test_batches_and_the_queue_are_those_of_the_model() -> None:
    found = config(
        serving=serving(batch_rows=512, batch_delay_us=750, queue_requests=99), deadline_ms=40
    )

    batching, policy = found.dynamic_batching, found.dynamic_batching.default_queue_policy
    assert found.max_batch_size == 512
    assert batching.max_queue_delay_microseconds == 750
    assert policy.max_queue_size == 99
    assert policy.default_timeout_microseconds == 40_000
    assert policy.timeout_action == pb.ModelQueuePolicy.REJECT


@pytest.mark.parametrize(
    ("accelerator", "kind"),
    [
        ("cpu", pb.ModelInstanceGroup.KIND_CPU),
        ("gpu", pb.ModelInstanceGroup.KIND_GPU),
        ("cuda", pb.ModelInstanceGroup.KIND_GPU),
        ("tensorrt", pb.ModelInstanceGroup.KIND_GPU),
    ],
)
def test_one_instance_runs_where_the_model_does(accelerator: str, kind: int) -> None:
    [group] = config(accelerator=accelerator).instance_group

    assert (group.count, group.kind) == (1, kind)


def test_it_is_warm_for_the_smallest_and_the_largest_batch_before_it_is_ready() -> None:
    warm = config(serving=serving(batch_rows=256)).model_warmup

    assert [w.batch_size for w in warm] == [1, 256]
    for one in warm:
        row = one.inputs["inputs"]
        assert (list(row.dims), row.zero_data) == ([len(FRAUD.inputs)], True)
    assert [w.batch_size for w in config(serving=serving(batch_rows=1)).model_warmup] == [1]


def test_tensorrt_computes_in_the_precision_that_was_validated() -> None:
    [provider] = config(
        accelerator="tensorrt"
    ).optimization.execution_accelerators.gpu_execution_accelerator

    assert provider.name == "tensorrt"
    assert dict(provider.parameters) == {"precision_mode": "FP32"}
    assert not config(accelerator="cuda").HasField("optimization")


def test_a_field_that_triton_does_not_have_is_found() -> None:
    with pytest.raises(text_format.ParseError, match="max_batchsize"):
        text_format.Parse(triton.text({"max_batchsize": 1}), pb.ModelConfig())


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\n"), max_size=40))
def test_any_text_is_quoted(name: str) -> None:
    found = text_format.Parse(triton.text({"name": name}), pb.ModelConfig())

    assert found.name == name


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """A folder with one bundle, which others may read."""
    sigmoid_bundle(tmp_path / "bundles" / "bundle")
    (tmp_path / "bundles").chmod(0o755)
    return tmp_path / "bundles"


def laid_out(bundles: Path, definition: ModelDefinition = FRAUD) -> Path:
    return triton.lay_out(definition, SERVICE, bundles / "bundle", bundles)


def test_a_repository_has_the_model_under_the_services_name(bundles: Path) -> None:
    repository = laid_out(bundles)

    files = {str(p.relative_to(repository)) for p in repository.rglob("*") if p.is_file()}
    assert files == {f"{SERVICE}/config.pbtxt", f"{SERVICE}/1/{MODEL_FILE}"}
    model = repository / SERVICE / "1" / MODEL_FILE
    assert model.read_bytes() == (bundles / "bundle" / MODEL_FILE).read_bytes()
    config = (repository / SERVICE / "config.pbtxt").read_text()
    [taken] = text_format.Parse(config, pb.ModelConfig()).input
    assert list(taken.dims) == [3], "the bundle's inputs, and not model.yaml's"
    assert sorted(p.name for p in bundles.iterdir()) == ["bundle", SERVICE]


def test_a_repository_is_as_readable_as_the_folder_of_bundles(bundles: Path) -> None:
    repository = laid_out(bundles)

    modes = {p.stat().st_mode & 0o777 for p in (repository, *repository.rglob("*"))}
    assert modes == {0o755, 0o644}


def test_a_repository_that_says_the_same_is_left_alone(bundles: Path) -> None:
    model = laid_out(bundles) / SERVICE / "1" / MODEL_FILE
    written = model.stat().st_ino

    laid_out(bundles)

    assert model.stat().st_ino == written


@pytest.mark.parametrize("file", ["config.pbtxt", f"1/{MODEL_FILE}"])
def test_a_repository_that_was_changed_or_cut_off_is_made_anew(bundles: Path, file: str) -> None:
    damaged = laid_out(bundles) / SERVICE / file
    good = damaged.read_bytes()
    damaged.write_bytes(good[:10])
    laid_out(bundles)
    assert damaged.read_bytes() == good
    damaged.unlink()
    laid_out(bundles)
    assert damaged.read_bytes() == good


def test_a_repository_follows_model_yaml_until_something_runs_from_it(bundles: Path) -> None:
    laid_out(bundles)
    slower = msgspec.structs.replace(FRAUD, serving=serving(batch_delay_us=777))

    repository = laid_out(bundles, slower)

    assert "777" in (repository / SERVICE / "config.pbtxt").read_text()


def test_a_bundle_that_is_not_what_its_digest_says_is_not_laid_out(bundles: Path) -> None:
    (bundles / "bundle" / MODEL_FILE).write_bytes(b"another")

    with pytest.raises(BundleCorrupt, match=MODEL_FILE):
        laid_out(bundles)

    assert [p.name for p in bundles.iterdir()] == ["bundle"]


def test_repositories_of_services_that_are_gone_and_drafts_are_swept(bundles: Path) -> None:
    kept, gone, of_another = SERVICE, "fraud-v6-00000000", "cards-v1-00000000"
    for name in (
        kept,
        gone,
        of_another,
        f".{gone}-draftx1y2",
        f".{of_another}-draftx1y2",
        "b" * 64,
    ):
        (bundles / name).mkdir()

    triton.sweep("fraud", bundles, {kept})

    left = {p.name for p in bundles.iterdir()}
    assert left == {"bundle", kept, of_another, f".{of_another}-draftx1y2", "b" * 64}
