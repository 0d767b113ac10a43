"""The network that tells a category by the words and letters of a payment's text, amount and
hour."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

WIDTH: Final = 48
"""Numbers of a token's vector."""
HIDDEN: Final = 96
DROPPED: Final = 0.2
"""Share of numbers between layers that a step of the fit leaves out."""
UNHEARD: Final = 0.2
"""Share of tokens that a step of the fit takes for unknown ones, as those of a new merchant are."""
UNKNOWN: Final = 1
HOURS: Final = 24


class Network(nn.Module):  # type: ignore[misc]
    """Logits of the categories [n, classes]; a text is the mean of its tokens' vectors.

    Args:
        places: number of places of each text's tokens.
        amounts: amounts to learn a scale from, NaN where missing.
    """

    def __init__(self, places: tuple[int, ...], amounts: NDArray[np.float32], classes: int) -> None:
        super().__init__()
        logs = np.log1p(amounts[np.isfinite(amounts)])
        self.mean, self.spread = float(logs.mean()), float(logs.std()) + 1e-6
        self.vectors = nn.ModuleList(nn.Embedding(size, WIDTH, padding_idx=0) for size in places)
        self.layers = nn.Sequential(
            nn.Dropout(DROPPED),
            nn.Linear(WIDTH * len(places) + 6, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPPED),
            nn.Linear(HIDDEN, classes),
        )

    def forward(
        self, words: torch.Tensor, letters: torch.Tensor, numbers: torch.Tensor
    ) -> torch.Tensor:
        missing = torch.isnan(numbers)
        known = torch.where(missing, torch.zeros((), device=numbers.device), numbers)
        amount = (torch.log(1 + torch.relu(known[:, :1])) - self.mean) / self.spread
        angle = known[:, 1:] * (2 * math.pi / HOURS)
        marks = missing.float()
        of_amount = torch.cat([amount, amount * amount / 2], dim=1) * (1 - marks[:, :1])
        of_hour = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1) * (1 - marks[:, 1:])
        texts = [self._text(place, tokens) for place, tokens in enumerate((words, letters))]
        return self.layers(torch.cat([*texts, of_amount, of_hour, marks], dim=1))

    def _text(self, place: int, tokens: torch.Tensor) -> torch.Tensor:
        there = tokens > 0
        if self.training:
            unheard = (torch.rand(tokens.shape, device=tokens.device) < UNHEARD) & there
            tokens = torch.where(unheard, torch.ones_like(tokens) * UNKNOWN, tokens)
        return self.vectors[place](tokens).sum(1) / there.float().sum(1, keepdim=True).clamp(min=1)
