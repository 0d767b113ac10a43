"""The types of a folder's `gates.py`: what its functions are given, and what they give."""

from mlplatform.learning.validation.gate_result import GateResult, Verdict
from mlplatform.learning.validation.measures import Measure, mean_measure
from mlplatform.learning.validation.own_gates import Arm, HeldOut
from mlplatform.learning.validation.statistics import Interval

__all__ = ["Arm", "GateResult", "HeldOut", "Interval", "Measure", "Verdict", "mean_measure"]
