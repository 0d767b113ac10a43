"""Which fields of a request are personal: what no log line may hold."""

from __future__ import annotations

import functools

from mlplatform.model.folders import load_definition, readable_names
from mlplatform.runtime.telemetry.redaction import FieldPolicy


@functools.cache
def personal_fields() -> FieldPolicy:
    """The personal fields of this installation's models, which their model.yaml alone declares."""
    return FieldPolicy(n for model in readable_names() for n in load_definition(model).personal)
