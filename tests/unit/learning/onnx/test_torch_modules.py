"""Modules of PyTorch become ONNX that scores as they do, of floats and of whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.train_libraries import needed

from mlplatform.learning.onnx.confined_model import ConfinedModel
from mlplatform.learning.onnx.explainer import make_explainer
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.onnx.torch import Block, FittedModule, fitted, reproducible
from mlplatform.model.tensors.signature import (
    InputTensor,
    OutputTensor,
    ScoreOutput,
    Signature,
    Tensors,
)
from mlplatform.model.tensors.tokens import Tokens, column_name
from mlplatform.runtime.errors import ConfigInvalid

LENGTH, NUMBERS, ROWS = 16, 4, 20_000
WORDS = [f"w{number}" for number in range(500)]
FLOAT32_ROUNDING = 2e-6
NOTE = [column_name("note", Tokens(of="words", length=LENGTH), n) for n in range(1, LENGTH + 1)]
NAMES = [*NOTE, *(f"x{number}" for number in range(NUMBERS))]


def rows(seed: int, count: int = ROWS) -> NDArray[np.float32]:
    """Tokens of texts of any length, then numbers with holes."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 2 + len(WORDS), (count, LENGTH)).astype(np.float32)
    ends = random.integers(0, LENGTH + 1, (count, 1))
    tokens[np.arange(LENGTH) >= ends] = np.nan
    numbers = random.lognormal(3, 2, (count, NUMBERS)).astype(np.float32)
    numbers[random.random(numbers.shape) < 0.2] = np.nan
    return np.concatenate([tokens, numbers], axis=1)


def network(torch: Any, *, whole: bool) -> Any:
    """The mean of the tokens' vectors beside numbers; takes tokens apart, or in the row."""
    nn = torch.nn

    class Network(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.vectors = nn.Embedding(2 + len(WORDS), 8, padding_idx=0)
            self.layers = nn.Sequential(nn.Linear(8 + 2 * NUMBERS, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, first: Any, numbers: Any = None) -> Any:
            if not whole:
                held = first[:, :LENGTH]
                tokens = torch.where(torch.isnan(held), torch.zeros(()), held)
                first, numbers = tokens.clamp(0, 1 + len(WORDS)).long(), first[:, LENGTH:]
            known = (first > 0).unsqueeze(2).float()
            mean = (self.vectors(first) * known).sum(1) / known.sum(1).clamp(min=1)
            missing = torch.isnan(numbers)
            logs = torch.where(missing, torch.zeros(()), torch.log(1 + numbers))
            return self.layers(torch.cat([mean, logs, missing.float()], dim=1))

    return Network()


def made(*, whole: bool, seed: int = 3) -> FittedModule:
    """Drawn, not fitted: what a module computes does not depend on how it came to its numbers."""
    torch = needed("torch")
    with reproducible(seed):
        module = network(torch, whole=whole)
    blocks = (Block("tokens", 0, LENGTH, "int64"), Block("numbers", LENGTH, LENGTH + NUMBERS))
    return fitted(module, rows(1, 10), blocks=blocks if whole else (), parameters={"width": 8})


def test_logits_of_classes_are_probabilities_in_onnx_as_here() -> None:
    torch = needed("torch")
    with reproducible(3):
        module = torch.nn.Sequential(torch.nn.Linear(NUMBERS, 8), torch.nn.ReLU())
        module.append(torch.nn.Linear(8, 5))
    x = np.random.default_rng(4).normal(size=(2_000, NUMBERS)).astype(np.float32)
    found = fitted(module, x, classes=5)
    expected = found.scores(x)
    assert expected.sum(axis=1) == pytest.approx(1)
    assert found.scores(x[:0]).shape == (0, 5)
    file = OnnxFile(found.onnx(), inputs=NUMBERS, classes=5)
    assert np.abs(file.scores(x) - expected).max() <= FLOAT32_ROUNDING


SIGNATURE = Signature(
    inputs=(
        InputTensor(name="tokens", dtype="int64", shape=("n", LENGTH), of=tuple(NOTE)),
        InputTensor(
            name="numbers", dtype="float32", shape=("n", NUMBERS), of=tuple(NAMES[LENGTH:])
        ),
    ),
    outputs=(OutputTensor(name="scores", dtype="float32", shape=("n",)),),
    score=ScoreOutput(output="scores"),
)


@pytest.mark.parametrize("whole", [False, True], ids=["rows", "tensors"])
def test_a_score_is_the_modules_within_float32_rounding(whole: bool) -> None:
    """Here and confined: every operation is one of those that are run of files from outside."""
    module, x = made(whole=whole), rows(2)
    x[0] = np.nan
    tensors = Tensors(SIGNATURE, NAMES, {"note": WORDS}) if whole else None
    expected = module.scores(x)
    content = module.onnx()
    file = OnnxFile(content, inputs=len(NAMES), tensors=tensors)
    assert np.abs(file.scores(x) - expected).max() <= FLOAT32_ROUNDING
    assert expected.std() > 0.01
    with_limits = ConfinedModel(content, inputs=len(NAMES), tensors=tensors)
    try:
        np.testing.assert_array_equal(with_limits.scores(x[:500]), file.scores(x[:500]))
    finally:
        with_limits.close()
    found = make_explainer(content, file, background=x, rows=x[:10]).attribution
    assert (found.method, found.why != "") == ("reference_values", True)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    first = made(whole=False).onnx()
    assert made(whole=False).onnx() == first
    assert made(whole=False, seed=4).onnx() != first


def test_what_draws_without_the_seed_is_as_it_was() -> None:
    torch = needed("torch")
    torch.manual_seed(1)
    expected = torch.rand(3).tolist()
    torch.manual_seed(1)
    made(whole=False)
    assert torch.rand(3).tolist() == expected
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_an_onnx_form_is_refused() -> None:
    torch = needed("torch")

    class Odd(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return torch.special.bessel_j0(x).sum(1)

    with pytest.raises(ConfigInvalid, match=r"training\.py: module"):
        fitted(Odd(), rows(1, 10)).onnx()
