"""A million customers along a ramp whose every step meets another gateway process."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.scoring.arms.routing import bucket

CUSTOMERS = 1_000_000
RAMP = (1, 5, 25, 50)
GATEWAY = """
import sys
import numpy as np
from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.model.routes import Arm, Routes
from mlplatform.scoring.arms.routing import assign

customers, generation, percent, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
old, new = Arm(1, "a" * 64, "fraud-v1-aaaaaaaa"), Arm(2, "b" * 64, "fraud-v2-bbbbbbbb")
routes = Routes("fraud", generation, old, new, old, "fraud-v2-1", "canary", float(percent))
key = bytes(range(32))
units = (pseudonym(f"customer-{number}", key) for number in range(customers))
met = np.fromiter((assign(routes, u).arm == "challenger" for u in units), bool, customers)
np.save(out, met)
"""


def a_gateway(folder: Path, number: int, percent: int) -> npt.NDArray[np.bool_]:
    """Whom a process that has just started leads to the challenger."""
    out = folder / f"{number}.npy"
    words = [sys.executable, "-c", GATEWAY, *map(str, (CUSTOMERS, 5 + number, percent, out))]
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": str(number)}
    subprocess.run(words, check=True, env=os.environ | own)
    met: npt.NDArray[np.bool_] = np.load(out)
    return met


@pytest.mark.slow
def test_a_million_customers_are_split_as_asked_and_nobody_is_led_back(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        steps = list(pool.map(lambda at: a_gateway(tmp_path, at[0], at[1]), enumerate(RAMP)))
    for percent, met in zip(RAMP, steps, strict=True):
        low, high = binom.interval(0.999, CUSTOMERS, percent / 100)
        assert low <= met.sum() <= high, f"{met.sum()} at {percent} %"
    for before, after in itertools.pairwise(steps):
        assert (before & ~after).sum() == 0


@pytest.mark.parametrize(
    ("unit", "rollout", "number"),
    [
        (0, "fraud-v2-1", 6748),
        (1, "fraud-v2-1", 8239),
        (-1, "fraud-v2-1", 623),
        (2**63 - 1, "fraud-v2-1", 1380),
        (-(2**63), "fraud-v2-1", 441),
        (4242, "fraud-v2-1", 3598),
        (4242, "fraud-v2-2", 6410),
        (4242, "credit-v10-3", 2669),
    ],
)
def test_a_later_release_leads_nobody_elsewhere(unit: int, rollout: str, number: int) -> None:
    assert bucket(unit, rollout) == number


@pytest.mark.parametrize(
    ("customer", "unit"),
    [
        ("customer-1", -3129930922415279854),
        (42, 2043412230312713055),
        ("\u00df", 8111395953312531530),
    ],
)
def test_a_later_release_knows_a_customer_by_the_same_number(customer: object, unit: int) -> None:
    assert pseudonym(customer, bytes(range(32))) == unit
