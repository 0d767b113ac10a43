"""A package or a module is named by a noun or by what it does, never by a participle alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = (
    ROOT / "platform" / "src" / "mlplatform",
    ROOT / "clients" / "python" / "src" / "mlplatform_client",
    ROOT / "demo",
    ROOT / "flows",
)
PARTICIPLE: Final = re.compile(
    r"\w*[a-z](?:(?<!e)ed|ing)|done|drawn|given|held|hidden|kept|known|left|made|said|seen|sent|shown|taken|told"
)
NOUNS: Final = {
    "authoring": "writing the files of a model",
    "autoscaling": "Kubernetes: a number of pods that follows the load",
    "batching": "model servers: requests that are scored together",
    "finding": "what a check found",
    "fitting": "statistics: what an estimator does with a training set",
    "keyring": "a store of keys",
    "learning": "machine learning",
    "monitoring": "watching a model that answers: drift, and how long payloads are kept",
    "observing": "the area of metrics, events and the page",
    "planning": "making a plan",
    "pruning": "databases: dropping what another copy has",
    "ranking": "information retrieval: items in order by their scores",
    "recording": "putting a fact on record",
    "rendering": "templates to text",
    "routing": "which version answers a request",
    "scoring": "credit and fraud: a model's answer to a request",
    "serving": "models behind an address, as KServe says it",
    "staging": "a folder of inputs before their use",
    "training": "how a model learns",
    "wiring": "what makes the adapters of a process and connects them",
}
"""Words that look like a participle and are nouns of the field: each with what it means here."""


def bare_participles(names: Iterator[str]) -> set[str]:
    """Of such names of modules, those whose last word is a participle and no noun of the field."""
    found = set()
    for name in names:
        last = name.rpartition("_")[2]
        if PARTICIPLE.fullmatch(last) and last not in NOUNS:
            found.add(name)
    return found


def module_names() -> Iterator[str]:
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            yield path.parent.name if path.name == "__init__.py" else path.stem


def test_no_module_is_named_by_a_participle() -> None:
    assert bare_participles(module_names()) == set()


def test_a_participle_is_found_and_a_noun_of_the_field_is_not() -> None:
    names = iter(("kept", "erasing", "local_erasing", "speed", "sealed_files", "grpc_scoring"))
    assert bare_participles(names) == {"kept", "erasing", "local_erasing"}


def test_every_accepted_noun_is_in_use() -> None:
    """A noun that no module has any more leaves the list."""
    words = {name.rpartition("_")[2] for name in module_names()}
    assert NOUNS.keys() - words == set()
