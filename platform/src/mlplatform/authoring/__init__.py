"""What the Python of a model's folder imports of the platform: nothing else of it is for teams.

| module | for |
|---|---|
| this one | `fit` and `baseline` of `training.py`: `Dataset`, `Context`, `Fitted`, `ScoringModel` |
| `sklearn`, `xgboost`, `lightgbm`, `catboost`, `torch` | `fitted` of each library; the library is imported by the folder |
| `compose` | several fitted models as one |
| `tensors` | inputs that go into a signature's tensors: places of words, exact numbers |
| `gates` | `gates.py`: `HeldOut`, `GateResult`, `Measure` |
| `history` | `sources.py`: columns, refusals and files of a history; `load_definition` |

Imports `learning`, `model` and `runtime`; nothing of the platform imports it.
"""

from mlplatform.learning.search.context import Context, Device, TrialStopped
from mlplatform.learning.search.dataset import Dataset
from mlplatform.learning.search.fitted import Fitted, ScoringModel
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
