"""Amounts of resources as Kubernetes writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from mlplatform.runtime.errors import InputInvalid

_FACTORS: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}
_FORM: Final = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]i?|Ki|)")

Amounts = Mapping[str, Decimal]


def quantity(text: str | int | float) -> Decimal:
    """The number behind `500m`, `2`, `1e3` or `256Mi`.

    Raises:
        InputInvalid: the text is not a quantity.
    """
    match = _FORM.fullmatch(str(text))
    if match is None or match[2] not in _FACTORS:
        raise InputInvalid("resources", None, f"{text!r} is not a quantity such as 500m or 256Mi")
    return Decimal(match[1]) * _FACTORS[match[2]]


def amounts(written: Mapping[str, str | int | float]) -> dict[str, Decimal]:
    """Resource → amount."""
    return {name: quantity(text) for name, text in written.items()}
