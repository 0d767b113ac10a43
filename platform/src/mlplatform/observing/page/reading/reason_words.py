"""The words for the codes of reasons, as a model's folder has them now."""

from __future__ import annotations

import contextlib

from mlplatform.model.bundle import parse_reasons
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import model_folder
from mlplatform.model.rules import parse_rules
from mlplatform.runtime.errors import PlatformError


def reason_words(definition: ModelDefinition) -> dict[str, str]:
    """Code → words for analysts, of reasons and rules; those of a file that can't be read lack.

    A decision of an earlier bundle may have a code that the folder has no more: it has no words.
    """
    folder, inputs = model_folder(definition.name), [one.name for one in definition.inputs]
    decisions = definition.decision.scale.names
    found: dict[str, str] = {}
    with contextlib.suppress(OSError, PlatformError):
        text = (folder / "reasons.yaml").read_text()
        reasons = parse_reasons(text, source="reasons.yaml", inputs=inputs)
        found |= {reason.code: reason.analyst for reason in reasons.values()}
    with contextlib.suppress(OSError, PlatformError):
        text = (folder / "rules.yaml").read_text()
        rules = parse_rules(text, source="rules.yaml", inputs=inputs, decisions=decisions)
        found |= {rule.code: rule.text for rule in rules}
    return found
