"""Views of one model beside its traffic: its inputs over time."""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import Route

from mlplatform.model.folders import is_ready, model_folder
from mlplatform.model.rhythm import SCORE
from mlplatform.observing.page import inputs
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.observing.page.rendering import render
from mlplatform.observing.page.responses import answering, or_why
from mlplatform.runtime.errors import ConfigInvalid, NotFound


class ModelViews:
    """Views of one model. Methods run on threads; each raises as its source does."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def routes(self) -> list[Route]:
        """The routes of these views."""
        return [Route("/models/{name}/data", answering(self.data), methods=["GET"])]

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
            incidents=or_why(lambda: self._incidents(name, word)),
            most_inputs=inputs.MOST_INPUTS,
            most_incidents=inputs.MOST_INCIDENTS,
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
