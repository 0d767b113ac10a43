"""Models that do harm, brought to the platform: refused in time, and nothing else happens."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from mlplatform.learning.onnx import confined_model
from mlplatform.learning.onnx.confined_model import LIMITS, ConfinedModel
from mlplatform.learning.onnx.model_files import ModelFiles
from mlplatform.learning.onnx.onnx_file import OnnxFile, session
from mlplatform.learning.onnx.onnx_limits import ModelRefused
from mlplatform.learning.onnx.onnx_work import _small_trees
from mlplatform.operations.actions import training as job
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Corrupt, InputInvalid
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.units import MIB
from mlplatform.scoring.predictor.model import scorer
from support import hostile_models as made

ROWS = np.zeros((4, made.WIDTH), np.float32)
SECRET = b"mlp_SECRETSECRETSECRET0123456789"


@pytest.fixture
def below(tmp_path, monkeypatch):
    """A working directory with a secret below it, as the flows' home lies below theirs."""
    (tmp_path / "var" / "secrets").mkdir(parents=True)
    (tmp_path / "var" / "secrets" / "api.key").write_bytes(SECRET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(model: Any, **more: Any) -> ConfinedModel:
    return ConfinedModel(model.SerializeToString(), inputs=made.WIDTH, **more)


def test_a_confined_model_scores_as_one_in_this_process():
    content = _small_trees()
    rows = np.random.default_rng(3).normal(1, 1, (5000, 1)).astype(np.float32)
    own, other = OnnxFile(content, inputs=1), ConfinedModel(content, inputs=1)
    assert (own.scores(rows) == other.scores(rows)).all()
    assert len(other.latencies_ms(rows, calls=7, budget_s=5)) == 7
    assert other.scores(rows[:0]).shape == (0,)
    explained = other.explained(rows, rows)
    assert explained.attribution.method == "tree_shap"
    assert explained.content is not None
    other.close()


@pytest.mark.parametrize(
    ("model", "why"),
    [
        pytest.param(made.large_constant(), "ConstantOfShape", id="2.8 GB out of 228 bytes"),
        pytest.param(made.endless_loop(), "Loop", id="a loop of 2^62 rounds"),
        pytest.param(made.reading("var/secrets/api.key"), "another file", id="another file"),
        pytest.param(made.circle_of_nodes(), "ONNX", id="a tree in a circle"),
    ],
)
def test_it_is_refused_as_it_is_loaded_and_no_byte_of_a_file_is_told(below, model, why):
    with pytest.raises(ModelRefused, match=why) as caught:
        loaded(model).scores(ROWS)
    secret_as_number = str(int.from_bytes(SECRET[:8], "little"))
    assert "SECRET" not in str(caught.value)
    assert secret_as_number not in str(caught.value)
    assert str(below) not in str(caught.value)


@pytest.mark.parametrize("of", ["input", "output"])
def test_names_that_are_no_text_are_refused_as_such(of):
    model = made.harmless()
    name = getattr(model.graph, of)[0].name.encode()
    content = model.SerializeToString().replace(name, b"\xff" * len(name))
    with pytest.raises(ModelRefused) as caught:
        ConfinedModel(content, inputs=made.WIDTH).scores(ROWS)
    assert "could not be worked on" not in str(caught.value)


def test_memory_by_operators_that_models_need_meets_the_process_limit():
    with pytest.raises(ModelRefused, match="more than 1024 MiB of memory"):
        loaded(made.doubling()).scores(ROWS)


def test_time_by_operators_that_models_need_meets_the_requests_limit(monkeypatch):
    monkeypatch.setattr(confined_model, "CALL_CPU_S", 0.5)
    monkeypatch.setattr(confined_model, "ROW_CPU_S", 0.0)
    model = loaded(made.slow_products(1024))
    with pytest.raises(ModelRefused, match="processor time"):
        model.scores(ROWS)


def test_time_in_all_is_limited_too():
    model = loaded(made.slow_products(1024), limits=replace_limits(cpu_s=2))
    with pytest.raises(ModelRefused, match="2 s of processor time in all"):
        model.scores(ROWS)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ModelRefused, match="wanted: a finite number"):
        loaded(made.not_a_number()).scores(ROWS)


def test_a_model_that_leaves_its_memory_lives_on_after_it():
    model = loaded(made.harmless(), limits=replace_limits(memory_bytes=300 * MIB))
    assert model.scores(ROWS).tolist() == [0.5] * len(ROWS)


def replace_limits(**changed: int) -> Any:
    import msgspec

    return msgspec.structs.replace(LIMITS, **changed)


# What serves reads no file beside a model either


def test_onnx_runtime_alone_tells_bytes_of_a_file_beside_a_model(tmp_path):
    path = beside_a_secret(tmp_path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match=str(int.from_bytes(SECRET[:8], "little"))):
        session.run(None, {"inputs": ROWS})


def test_bytes_are_taken_for_onnx_and_no_other_format(tmp_path):
    """A file can be ONNX to who looks into it, and hold another model in ONNX Runtime's own format,
    which that takes by a mark at byte 4: of bytes, not of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "small.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(_small_trees(), options)
    content = (tmp_path / "small.ort").read_bytes()
    assert content[4:8] == b"ORTM"
    with pytest.raises(InputInvalid):
        session(content)


def test_a_predictor_does_not_load_a_model_that_reads_another_file(tmp_path):
    path = beside_a_secret(tmp_path)
    with pytest.raises(Corrupt) as caught:
        scorer(path)
    assert str(int.from_bytes(SECRET[:8], "little")) not in str(caught.value)


def beside_a_secret(folder: Path) -> Path:
    (folder / "api.key").write_bytes(SECRET)
    path = folder / "model.onnx"
    path.write_bytes(made.reading("api.key").SerializeToString())
    return path


# The file that a person names


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    home.secrets.mkdir(exist_ok=True)
    home.bundles.mkdir(exist_ok=True)
    (home.secrets / "api.key").write_bytes(SECRET)
    return home


def test_a_plain_file_a_bundle_and_what_lies_in_the_bundles_are_read(home, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"content")
    (home.bundles / "model.onnx").write_bytes(b"bundle")
    assert job.brought_files(tmp_path / "a.onnx", home, tmp_path).content == b"content"
    assert job.brought_files(home.bundles, home, tmp_path).content == b"bundle"


def made_fifo(folder: Path, home: Home) -> Path:
    os.mkfifo(folder / "pipe.onnx")
    return folder / "pipe.onnx"


def made_link(folder: Path, home: Home) -> Path:
    (folder / "link.onnx").symlink_to(home.secrets / "api.key")
    return folder / "link.onnx"


def made_hard_link(folder: Path, home: Home) -> Path:
    (folder / "hard.onnx").hardlink_to(home.secrets / "api.key")
    return folder / "hard.onnx"


def made_folder_link(folder: Path, home: Home) -> Path:
    (folder / "inner").symlink_to(home.secrets)
    return folder / "inner" / "api.key"


def made_large(folder: Path, home: Home) -> Path:
    with (folder / "large.onnx").open("wb") as file:
        file.truncate(10 * 1024 * MIB)
    return folder / "large.onnx"


def made_empty(folder: Path, home: Home) -> Path:
    (folder / "empty.onnx").touch()
    return folder / "empty.onnx"


def made_foreign(folder: Path, home: Home) -> Path:
    (folder / "foreign.onnx").write_bytes(b"content")
    os.chown(folder / "foreign.onnx", 12345, 12345)
    return folder / "foreign.onnx"


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(lambda folder, home: Path("/dev/zero"), id="a device"),
        pytest.param(lambda folder, home: Path("/proc/self/environ"), id="a file of the kernel"),
        pytest.param(lambda folder, home: Path("/proc/self/fd/0"), id="an open file"),
        pytest.param(lambda folder, home: home.secrets / "api.key", id="a secret"),
        pytest.param(lambda folder, home: home.run / "page.token", id="a file of the home"),
        pytest.param(lambda folder, home: folder / "x\0y", id="a name with a NUL"),
        pytest.param(lambda folder, home: folder / "none.onnx", id="nothing"),
        pytest.param(lambda folder, home: folder, id="a folder without a model"),
        pytest.param(made_fifo, id="a pipe"),
        pytest.param(made_link, id="a link"),
        pytest.param(made_hard_link, id="a hard link"),
        pytest.param(made_folder_link, id="a link among the folders"),
        pytest.param(made_large, id="a file of 10 GiB"),
        pytest.param(made_empty, id="an empty file"),
        pytest.param(made_foreign, id="another user's file", marks=AS_ROOT),
    ],
)
def test_what_is_no_file_of_a_persons_is_not_read(home, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    path = name(outside, home)
    began = time.monotonic()
    with pytest.raises((job.NotFound, job.InputInvalid)) as caught:
        job.brought_files(path, home, outside)
    assert time.monotonic() - began < 30
    assert "SECRET" not in str(caught.value)


class _Clock:
    def wall_ms(self) -> int:
        return 7


class _Platform:
    """What `bring` asks of a platform before a model is looked at."""

    def __init__(self, home: Home) -> None:
        self.clock = _Clock()
        self.settings = type("Settings", (), {"home": home})()
        self.refusals = Refusals(home.audit)


def test_a_refused_candidate_is_recorded(home, tmp_path, monkeypatch):
    path = tmp_path / "loop.onnx"
    path.write_bytes(made.endless_loop().SerializeToString())

    def around(platform: object, model: str, files: ModelFiles, origin: str, _: object) -> None:
        ConfinedModel(files.content, inputs=made.WIDTH)

    monkeypatch.setattr(job, "_candidate", around)
    platform: Any = _Platform(home)
    with pytest.raises(ModelRefused):
        job.bring(platform, "fraud", path, "Mallory", None)  # type: ignore[arg-type]
    (refusal,) = Refusals(home.audit).since(0)
    assert (refusal.door, refusal.who) == ("candidate", "Mallory")
    assert refusal.asked == "validate loop.onnx for fraud"
    assert "loop.onnx is refused: " in refusal.why
    assert "Loop" in refusal.why
    assert list(home.bundles.iterdir()) == []
