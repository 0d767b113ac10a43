"""The personal fields of requests, whose values no log line may hold."""

from __future__ import annotations

import functools

from mlplatform.model.folders import load_definition, readable_names
from mlplatform.runtime.telemetry.redaction import FieldPolicy


@functools.cache
def personal_fields() -> FieldPolicy:
    """The personal fields of this installation's models, as their model.yaml declares them."""
    return FieldPolicy(n for model in readable_names() for n in load_definition(model).personal)
