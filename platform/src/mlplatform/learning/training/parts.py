"""The parts of a bundle that are not learned: the model's inputs, and how scores are explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlplatform.learning.training.folder import ModelFolder
from mlplatform.model.bundle import Bundle, View
from mlplatform.model.definition import InputSpec
from mlplatform.model.inputs import view_defaults
from mlplatform.model.rules import Reason, Rule
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.model.tensors.signature import Signature, Tensors
from mlplatform.model.windows.declaration import Window, read_by


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts that a model folder declares, or that another bundle has.

    Args:
        vocabularies: category or text → its words, declared or learned in training.
        signature: the graph's tensors; None: it takes one float32 matrix and gives one column of
            scores.
        folder: digest of the model folder; empty if the parts come from another bundle.
        classes: number of classes whose probabilities the graph gives; 0 if it gives one score.
    """

    inputs: tuple[InputSpec, ...]
    views: tuple[View, ...]
    rules: tuple[Rule, ...]
    reasons: Mapping[str, Reason]
    vocabularies: Vocabularies
    signature: Signature | None
    windows: tuple[Window, ...]
    folder: str = ""
    classes: int = 0

    @property
    def names(self) -> list[str]:
        return [i.name for i in self.inputs]

    @property
    def tensors(self) -> Tensors | None:
        if self.signature is None:
            return None
        return Tensors(self.signature, self.names, self.vocabularies, classes=self.classes)


def bundle_parts(bundle: Bundle) -> Parts:
    """The parts of a bundle, for a model that replaces the bundle's own."""
    return Parts(
        inputs=bundle.inputs,
        views=bundle.views,
        rules=bundle.rules,
        reasons=bundle.reasons,
        vocabularies=bundle.vocabularies,
        signature=bundle.signature,
        windows=bundle.windows,
        classes=bundle.classes,
    )


def folder_parts(folder: ModelFolder, vocabularies: Vocabularies) -> Parts:
    """The parts that a model folder declares, with these vocabularies."""
    definition = folder.definition
    read = {
        n for i in definition.inputs for n in (i.name, i.to) if n is not None
    }  # `to`: a ratio's other one
    return Parts(
        inputs=definition.inputs,
        views=tuple(
            View(name=v.name, ttl_ms=v.ttl_ms, defaults=view_defaults([v]))
            for v in folder.views
            if read.intersection(v.feature_names)
        ),
        rules=folder.rules,
        reasons={i.name: folder.reasons[i.declared] for i in definition.inputs},
        vocabularies=vocabularies,
        signature=definition.signature,
        windows=read_by(read, definition.windows),
        folder=folder.digest,
        classes=len(definition.classes),
    )
