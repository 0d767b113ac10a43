"""Views of one model beside its traffic: its inputs, two versions, and its model.yaml."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request
from starlette.routing import Route

from mlplatform.model.folders import is_ready, model_folder
from mlplatform.model.rhythm import SCORE
from mlplatform.observing.page import inputs
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.observing.page.queries.system_state import or_why
from mlplatform.observing.page.rendering import render
from mlplatform.observing.page.responses import answering
from mlplatform.operations.card.comparison import compare
from mlplatform.runtime.errors import ConfigInvalid, NotFound

MOST_SHOWN: Final = 64
"""Most characters of a value in a message."""
_NUMBER: Final = re.compile(r"v?([1-9][0-9]{0,9})")


class ModelViews:
    """Views of one model. Methods run on threads; each raises as its source does."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def routes(self) -> list[Route]:
        """The routes of these views."""
        shown = {"data": self.data, "compare": self.compare, "source": self.source}
        return [
            Route(f"/models/{{name}}/{path}", answering(show), methods=["GET"])
            for path, show in shown.items()
        ]

    def data(self, request: Request) -> str:
        """The model's inputs over time, its missing and stale shares, and its incidents."""
        name = request.path_params["name"]
        history = self._sources.input_history(name)
        word = score_word(self._sources, name)
        return render(
            "inputs.html",
            here="overview",
            model=name,
            shown=inputs.inputs_detail(history, word),
            unwatched=inputs.unwatched(self._sources.model(name).definition),
            incidents=or_why(lambda: self._incidents(name, word)),
            most_inputs=inputs.MOST_INPUTS,
            most_incidents=inputs.MOST_INCIDENTS,
        )

    def compare(self, request: Request) -> str:
        """Two versions side by side.

        Raises:
            NotFound: a number names no version of the model, or both name one.
        """
        name, numbers = request.path_params["name"], request.query_params
        wanted = [_version(name, key, numbers.get(key, "")) for key in ("first", "second")]
        if wanted[0] == wanted[1]:
            raise NotFound(f"first and second are {wanted[0]}; wanted: two versions of {name}")
        found = compare(*(self._sources.card(name, number) for number in wanted))
        return render("compare.html", here="overview", found=found)

    def source(self, request: Request) -> str:
        """The model.yaml that this installation runs, with the digest of its folder.

        Raises:
            NotFound: there is no such model.
        """
        name = request.path_params["name"]
        champion = self._sources.model(name).routes.champion
        numbers = [] if champion is None else [champion.version]
        return render(
            "source.html",
            here="overview",
            model=name,
            found=self._sources.definition_source(name),
            champions=or_why(lambda: self._sources.versions(name, numbers)),
        )

    def _incidents(self, name: str, word: str) -> list[inputs.IncidentRow]:
        found = [one for one in self._sources.incidents() if one.found.model == name]
        now_ms = self._sources.platform.clock.wall_ms()
        return inputs.incident_rows(found, now_ms, trains=trains(name), score_word=word)


def trains(model: str) -> bool:
    """Whether the model's folder trains it, as far as the folder is here."""
    try:
        return not is_ready(model_folder(model))
    except (NotFound, ConfigInvalid):
        return True


def score_word(sources: Sources, model: str) -> str:
    """The name of what the model gives: score, probability or number."""
    scale = sources.scale(model)
    return SCORE if scale is None else scale.score_word


def _version(model: str, key: str, text: str) -> int:
    found = _NUMBER.fullmatch(text)
    if found is None:
        wanted = "the number of a version, like 2 or v2"
        raise NotFound(f"{key} is {text[:MOST_SHOWN]!a}; wanted: {wanted}, of {model}")
    return int(found[1])
