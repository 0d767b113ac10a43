"""The folders that hold model folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlplatform.runtime.configuration import variables
from mlplatform.runtime.configuration.declarations import SETTINGS
from mlplatform.runtime.configuration.kinds import SHIPPED, Folders

(_SETTING,) = (s for s in SETTINGS if s.name == "MODELS")
VARIABLE: Final = _SETTING.variable


def model_roots(environment: Mapping[str, str]) -> Folders:
    """The folders that MLPLATFORM_MODELS names, in its order; the folder of the examples if it is
    not set.

    Raises:
        ConfigInvalid: a part of the list is empty.
    """
    found: Folders = variables.value(_SETTING, environment) or Folders((SHIPPED,))
    return found
