"""A model whose weights lie in files beside its graph becomes a bundle of many files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import ModelProto
from tests.support import large_model
from tests.support.foreign_onnx import requests
from tests.support.hostile_models import WIDTH, harmless

from mlplatform.commands.authoring.check_model import problems
from mlplatform.commands.authoring.new_model import write_ready
from mlplatform.learning.onnx import confined_model
from mlplatform.learning.onnx.confined_model import ConfinedModel
from mlplatform.learning.onnx.model_files import model_files
from mlplatform.learning.onnx.onnx_limits import MOST_BYTES, ModelRefused
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import load_runnable
from mlplatform.learning.training.external_model import candidate_from_onnx
from mlplatform.learning.training.folder import ModelFolder, load_folder
from mlplatform.learning.training_sets.dataset import TrainingSet, dataset
from mlplatform.model.bundle import BundleCorrupt, load_bundle
from mlplatform.model.weights.memory import needed_mib
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, Refused
from mlplatform.runtime.storage import large_files
from mlplatform.runtime.storage.plain_files import Rule
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.predictor import model as predictor
from mlplatform.scoring.request.explain import load_decider

NAME = "large"
AS_OF_MS = 20_000 * DAY_MS
RULE = Rule(most_bytes=MOST_BYTES)
SIZES = {"table_rows": 4_000, "layers": 6, "width": 512}
"""Of a table of 8 MB and layers of 6 MB."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file and its weights as somebody sends them, and the folder that the template makes."""
    root = tmp_path_factory.mktemp("team")
    (root / "sent").mkdir()
    large_model.write_large(root / "sent", **SIZES)
    write_ready(root / NAME, NAME, root / "sent" / "model.onnx")
    (root / NAME / "golden.json").write_text(json.dumps(large_model.golden(root / "sent")))
    return root


@pytest.fixture(scope="module")
def folder(root: Path) -> Iterator[ModelFolder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLPLATFORM_MODELS", str(root))
        yield load_folder(NAME)


@pytest.fixture(scope="module")
def data(folder: ModelFolder) -> TrainingSet:
    table = requests(AS_OF_MS, days=24, per_day=350)
    definition = folder.definition
    return dataset(definition, folder.views, table, as_of_ms=AS_OF_MS, labels_until_ms=AS_OF_MS)


def brought(
    root: Path, folder: ModelFolder, data: TrainingSet, bundles: Path, seed: int
) -> Candidate:
    copies = bundles / f".copies{seed}"
    copies.mkdir(parents=True)
    files = model_files(root / NAME / "model.onnx", RULE, copies=copies)
    return candidate_from_onnx(
        files.content,
        folder,
        folder.definition,
        data,
        bundles=bundles,
        origin="model.onnx, brought by ana",
        seed=seed,
        data=files.data,
    )


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def made(root: Path, folder: ModelFolder, data: TrainingSet, bundles: Path) -> Iterator[Candidate]:
    candidate = brought(root, folder, data, bundles, 1)
    yield candidate
    candidate.model.close()


def test_the_template_takes_its_weights_along_and_declares_their_memory(
    root: Path, folder: ModelFolder
) -> None:
    sent = (root / "sent" / large_model.DATA).read_bytes()
    assert (root / NAME / large_model.DATA).read_bytes() == sent
    graph_bytes = (root / NAME / "model.onnx").stat().st_size
    assert folder.definition.serving.memory_mib == needed_mib(graph_bytes, [len(sent)])
    assert list(problems(root / NAME)) == []


def test_its_bundle_names_every_file_and_the_gates_judge_it(
    root: Path, folder: ModelFolder, data: TrainingSet, made: Candidate
) -> None:
    bundle = load_bundle(made.folder, made.bundle.digest)
    assert set(bundle.files) == {"model.onnx", large_model.DATA}
    report = retrain.validate(folder, made, data, champion=None)
    assert "failed" not in {gate.verdict for gate in report.gates}, report.reasons
    assert (made.folder / large_model.DATA).stat().st_mode & 0o777 == 0o600


def test_a_predictor_an_explanation_and_the_gates_score_it_alike(
    data: TrainingSet, made: Candidate
) -> None:
    x = data.judging.matrix.columns(made.bundle.input_names)[:50]
    served = predictor.load(made.folder, f"large-v1-{made.bundle.digest[:8]}").score(x)
    again = load_runnable(made.folder)
    np.testing.assert_allclose(served, again.model.scores(x), atol=1e-6)
    decider = load_decider(made.folder.parent, NAME, made.bundle.digest)
    np.testing.assert_array_equal(served, decider.score(x))
    again.model.close()


def test_two_versions_with_the_same_weights_have_them_once(
    root: Path, folder: ModelFolder, data: TrainingSet, bundles: Path, made: Candidate
) -> None:
    other = brought(root, folder, data, bundles, 2)
    other.model.close()
    assert other.bundle.digest != made.bundle.digest
    assert (other.folder / large_model.DATA).samefile(made.folder / large_model.DATA)
    assert not (root / NAME / large_model.DATA).samefile(made.folder / large_model.DATA)


@pytest.mark.parametrize("remembered_from_bytes", [1, 2**40], ids=["remembered", "read anew"])
def test_a_changed_byte_refuses_it(
    root: Path,
    folder: ModelFolder,
    data: TrainingSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    remembered_from_bytes: int,
) -> None:
    monkeypatch.setattr(large_files, "REMEMBERED_FROM_BYTES", remembered_from_bytes)
    monkeypatch.setattr(large_files, "SETTLED_S", 0.0)
    candidate = brought(root, folder, data, tmp_path, 3)
    candidate.model.close()
    weights = candidate.folder / large_model.DATA
    load_bundle(candidate.folder)
    load_bundle(candidate.folder)
    with weights.open("r+b") as file:
        file.seek(5_000_000)
        byte = file.read(1)[0]
        file.seek(5_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(BundleCorrupt, match=rf"{large_model.DATA} was changed"):
        load_bundle(candidate.folder)
    with pytest.raises(BundleCorrupt, match="was changed"):
        predictor.load(candidate.folder, f"large-v1-{candidate.bundle.digest[:8]}")
    load_bundle(candidate.folder, data=False)
    weights.unlink()
    with pytest.raises(BundleCorrupt, match="is missing"):
        load_bundle(candidate.folder, data=False)


def test_it_is_refused_with_the_figure_where_memory_does_not_do(
    root: Path, folder: ModelFolder, made: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "memory_bytes", lambda: 100 * 1024 * 1024)
    needed = folder.definition.serving.memory_mib
    assert needed is not None
    with pytest.raises(Refused, match=f"needs {needed} MiB of memory; .* has 100 MiB"):
        predictor.load(made.folder, f"large-v1-{made.bundle.digest[:8]}")
    files = model_files(root / NAME / "model.onnx", RULE)
    monkeypatch.setattr(confined_model, "free_memory_bytes", lambda: 500 * 1024 * 1024)
    with pytest.raises(ModelRefused, match="this machine has 500 MiB free"):
        ConfinedModel(files.content, inputs=2, data=files.data)


def test_memory_that_is_not_declared_is_told_with_the_key(
    folder: ModelFolder, data: TrainingSet, root: Path, tmp_path: Path
) -> None:
    serving = msgspec.structs.replace(folder.definition.serving, memory_mib=128)
    definition = msgspec.structs.replace(folder.definition, serving=serving)
    files = model_files(root / NAME / "model.onnx", RULE)
    with pytest.raises(ConfigInvalid, match=r"serving\.memory_mib.*128"):
        candidate_from_onnx(
            files.content,
            folder,
            definition,
            data,
            bundles=tmp_path,
            origin="x",
            seed=1,
            data=files.data,
        )
    assert list(tmp_path.iterdir()) == []


# Files that lie elsewhere, or are not what the graph says


def sent(folder: Path, location: str = large_model.DATA, size: int = 64, **entries: str) -> Path:
    """A small model with one tensor at that place."""
    model: ModelProto = harmless()
    tensor = large_model.outside("w", [4, 4], at=0, location=location, **entries)
    model.graph.initializer.append(tensor)
    (folder / large_model.DATA).write_bytes(b"\1" * size)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def linked(folder: Path) -> Path:
    path = sent(folder)
    (folder / large_model.DATA).rename(folder.parent / "secret")
    (folder / large_model.DATA).symlink_to(folder.parent / "secret")
    return path


def hard_linked(folder: Path) -> Path:
    path = sent(folder)
    os.link(folder / large_model.DATA, folder.parent / "secret")
    return path


@pytest.mark.parametrize(
    ("made", "why"),
    [
        pytest.param(lambda f: sent(f, "../secret"), "own folder", id="a folder above"),
        pytest.param(lambda f: sent(f, "/etc/passwd"), "own folder", id="an absolute path"),
        pytest.param(lambda f: sent(f, "a/w.bin"), "own folder", id="a folder below"),
        pytest.param(lambda f: sent(f, "..\\secret"), "own folder", id="another system's path"),
        pytest.param(lambda f: sent(f, ".."), "own folder", id="the folder above itself"),
        pytest.param(lambda f: sent(f, ""), "own folder", id="no name"),
        pytest.param(lambda f: sent(f, "x\0y"), "can be printed", id="a NUL"),
        pytest.param(lambda f: sent(f, "bundle.json"), "other files", id="a bundle's own file"),
        pytest.param(lambda f: sent(f, "model.onnx"), "other files", id="the model itself"),
        pytest.param(lambda f: sent(f, "none.bin"), "no such plain file", id="nothing"),
        pytest.param(linked, "no such plain file", id="a link"),
        pytest.param(hard_linked, "hard link", id="a hard link"),
        pytest.param(lambda f: sent(f, size=63), "63", id="a byte too few"),
        pytest.param(lambda f: sent(f, offset="4"), "64", id="beyond the end"),
        pytest.param(
            lambda f: sent(f, offset="-8"), "not a place in a file", id="before the begin"
        ),
        pytest.param(lambda f: sent(f, offset="9" * 18), "from byte 9", id="far beyond the end"),
        pytest.param(lambda f: sent(f, length="32"), "declares 64", id="shorter than declared"),
        pytest.param(lambda f: sent(f, length="x"), "not a place in a file", id="no number"),
    ],
)
def test_weights_elsewhere_are_refused_with_the_reason(
    tmp_path: Path, made: Callable[[Path], Path], why: str
) -> None:
    (tmp_path / "sent").mkdir()
    path = made(tmp_path / "sent")
    with pytest.raises(InputInvalid, match=why):
        write_ready(tmp_path / "taken", "taken", path)
    assert not (tmp_path / "taken").exists()


def test_tensors_that_share_bytes_of_a_file_count_each(tmp_path: Path) -> None:
    path = sent(tmp_path)
    model = ModelProto.FromString(path.read_bytes())
    model.graph.initializer.append(large_model.outside("again", [4, 4], at=0))
    path.write_bytes(model.SerializeToString())
    files = model_files(path, RULE)
    with pytest.raises(ModelRefused, match="128 bytes of data files; the limit is 64"):
        ConfinedModel(files.content, inputs=WIDTH, data=files.data)
