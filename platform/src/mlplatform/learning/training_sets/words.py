"""The words of a model's categories and texts, in the rows to which the model is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.inputs import declared_words
from mlplatform.model.tensors.categories import MOST_WORDS, frequent_words
from mlplatform.model.tensors.tokens import LEAST_ROWS, MOST_TOKENS, Tokens, learned_tokens

if TYPE_CHECKING:
    import pyarrow as pa  # a model's folder is read without pyarrow


def own_words(
    definition: ModelDefinition, table: pa.Table, *, every: bool = False
) -> dict[str, tuple[str, ...]]:
    """The words of the definition's categories and texts: declared, or the most frequent of a
    table.

    Args:
        every: whether to include words that a model may not learn, for a table on which bundles are
            compared.
    """
    found = declared_words(definition)
    most = MOST_WORDS if every else definition.training.vocabulary
    for spec in definition.inputs:
        name, tokens = spec.declared, spec.tokens
        if name in found:
            continue
        if spec.kind == "category":
            found[name] = frequent_words(table.column(spec.of or ""), most)
        elif isinstance(tokens, Tokens):
            texts = table.column(spec.of or "")
            limits = (MOST_TOKENS, 1) if every else (tokens.vocabulary, LEAST_ROWS)
            found[name] = learned_tokens(texts, tokens, most=limits[0], least_rows=limits[1])
    return found
