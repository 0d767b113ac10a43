"""The part of the platform that the Python of a model's folder imports; no other is for teams.

- This module is for `fit` and `baseline` of `training.py`, and `load_definition` for all files.
- `sklearn`, `xgboost`, `lightgbm`, `catboost` and `torch` have `fitted` for a model of that
  library, which the folder imports by itself. `compose` makes one model of several.
- `tensors` is for inputs that go into a signature's tensors.
- `gates` has the types of `gates.py`, and `history` the parts of `sources.py`.

Imports `learning`, `model` and `runtime`; nothing of the platform imports it.
"""

from mlplatform.learning.search.context import Context, Device, TrialStopped
from mlplatform.learning.search.dataset import Dataset
from mlplatform.learning.search.fit_results import Fitted, ScoringModel
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition
from mlplatform.runtime.errors import InputInvalid

__all__ = [
    "Context",
    "Dataset",
    "Device",
    "Fitted",
    "InputInvalid",
    "ModelDefinition",
    "ScoringModel",
    "TrialStopped",
    "load_definition",
]
