"""How the category of a payment is learned: a small PyTorch network, measured beside a linear
model."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import nn

from mlplatform.authoring import Context, Dataset, Fitted, load_definition
from mlplatform.authoring.tensors import FIRST, Tokens
from mlplatform.authoring.torch import Block, fitted, reproducible

from .linear import LinearModel
from .network import DROPPED, HIDDEN, UNHEARD, WIDTH, Network

MODEL: Final = "merchant-category"
EPOCHS: Final = 12
BATCH_ROWS: Final = 128
HIGHEST_RATE: Final = 0.01
DECAY: Final = 0.3


class Inputs(NamedTuple):
    """The tensors of model.yaml's signature in a row, and the places of each text's tokens."""

    blocks: tuple[Block, ...]
    places: tuple[int, ...]

    @property
    def texts(self) -> tuple[slice, ...]:
        return tuple(slice(b.start, b.stop) for b in self.blocks[: len(self.places)])


def inputs() -> Inputs:
    """The inputs by model.yaml, whose signature has them in the order of a row."""
    definition = load_definition(MODEL)
    vocabularies = {
        spec.name: spec.tokens.vocabulary
        for spec in definition.inputs
        if isinstance(spec.tokens, Tokens)
    }
    blocks: list[Block] = []
    for tensor in definition.signature.inputs if definition.signature else ():
        start = blocks[-1].stop if blocks else 0
        dtype: Any = tensor.dtype
        blocks.append(Block(tensor.name, start, start + len(tensor.of), dtype))
    firsts = [spec.name for spec in definition.inputs]
    texts = [block for block in blocks if firsts[block.start] in vocabularies]
    places = tuple(vocabularies[firsts[block.start]] + FIRST for block in texts)
    return Inputs(tuple(blocks), places)


def fit(dataset: Dataset, context: Context) -> Fitted:
    """The same rows and seed give the same model; rows are in order of event time."""
    context.log(f"PyTorch {torch.__version__} on {_hardware(context)}")
    network = _fitted(dataset, context)
    sizes = {"epochs": EPOCHS, "width": WIDTH, "hidden": HIDDEN}
    shares = {"dropped": DROPPED, "unheard": UNHEARD, "decay": DECAY, "rate": HIGHEST_RATE}
    return fitted(network, dataset, blocks=inputs().blocks, parameters={**sizes, **shares})


def baseline(dataset: Dataset, context: Context) -> LinearModel:
    """A linear model of the same inputs, beside which each version is measured.

    Its fit draws nothing at random, so that the seed of the context changes nothing.
    """
    layout = inputs()
    model = LinearModel(layout.texts, layout.places, len(dataset.classes))
    return model.fit(dataset.x, dataset.y, dataset.weight)


def _device(context: Context) -> str:
    """The GPU of the context, where this PyTorch can use it too."""
    return "cuda" if context.device == "cuda" and torch.cuda.is_available() else "cpu"


def _hardware(context: Context) -> str:
    if context.device == "cpu":
        return "the processor, because this machine has no GPU of NVIDIA"
    return "the GPU" if _device(context) == "cuda" else "the processor: it can't use the GPU here"


def _fitted(dataset: Dataset, context: Context) -> Network:
    x, y, weight = dataset.x, dataset.y, dataset.weight
    layout, device = inputs(), _device(context)
    tensors = [torch.from_numpy(block.of(x)).to(device) for block in layout.blocks]
    labels = torch.from_numpy(y.astype(np.int64)).to(device)
    counts = torch.ones(len(y)) if weight is None else torch.from_numpy(weight).float()
    counts = counts.to(device)
    with reproducible(context.seed):
        network = Network(layout.places, x[:, layout.blocks[-1].start], len(dataset.classes))
        network.to(device)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
        steps = EPOCHS * math.ceil(len(y) / BATCH_ROWS)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, HIGHEST_RATE, total_steps=steps)
        for epoch in range(EPOCHS):
            losses = 0.0
            for chosen in torch.randperm(len(y)).to(device).split(BATCH_ROWS):
                optimizer.zero_grad()
                logits = network(*(tensor[chosen] for tensor in tensors))
                loss = nn.functional.cross_entropy(logits, labels[chosen], reduction="none")
                loss = (loss * counts[chosen]).sum() / counts[chosen].sum()
                loss.backward()
                optimizer.step()
                rate.step()
                losses += float(loss.detach())
            context.log(f"epoch {epoch + 1}: loss {losses / (steps / EPOCHS):.4f}")
    return network
