"""Views of decisions: the search with its form, its results as a file, and one decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlplatform.model.definition import ModelDefinition, RequestField
from mlplatform.model.policies.decision_scale import DecisionScale
from mlplatform.observing.page import exports
from mlplatform.observing.page.causes import explanation_details
from mlplatform.observing.page.people import forms
from mlplatform.observing.page.people.reader import READER
from mlplatform.observing.page.queries import decisions, search
from mlplatform.observing.page.queries.decisions import RecordDetail, ScoreText
from mlplatform.observing.page.queries.neighbours import Neighbours
from mlplatform.observing.page.queries.search import SearchResult
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.observing.page.queries.system_state import or_why
from mlplatform.observing.page.queries.traces import trace_link
from mlplatform.observing.page.rendering import render
from mlplatform.observing.page.responses import answering, html, or_problem, problem_of
from mlplatform.operations.actions import review
from mlplatform.runtime.errors import InputInvalid, PlatformError
from mlplatform.runtime.times import duration_text
from mlplatform.runtime.units import MINUTE_MS

PAGE_ROWS: Final = 50
UNIT_ROWS: Final = 25
"""As `PAGE_ROWS`, of one customer: each row may lie in a file of its own, of some 6 ms."""
TYPED: Final = ("decision_id", "customer", *search.FIELD_NAMES)
"""Fields of the search form."""
MOST_DIGITS: Final = 19
"""Most digits of a number of 64 bits."""
MOST_TYPED: Final = 128
"""Most characters of a field that are shown again."""


@dataclass(frozen=True, slots=True)
class BesideRow:
    """A decision beside another one.

    Args:
        apart: how much earlier or later it was, in words.
    """

    decision_id: str
    event_ms: int
    apart: str
    decision: str | None
    tone: str
    score: ScoreText
    version: int | None
    degraded_reason: str | None


@dataclass(frozen=True, slots=True)
class BesideRows:
    """Decisions beside one in time, newest first.

    Args:
        within: time to either side that was read, in words.
        every: path of the search that goes on.
    """

    title: str
    within: str
    rows: tuple[BesideRow, ...]
    every: str

    @classmethod
    def of(
        cls, title: str, found: Neighbours, event_ms: int, scale: DecisionScale | None, every: str
    ) -> BesideRows:
        """The rows as a page shows them."""
        rows = tuple(_beside(row, event_ms, scale) for row in (*found.after, *found.before))
        return cls(title, duration_text(found.within_ms / 1000), rows, every)


def check_customer(text: str, models: Iterable[ModelDefinition], asked: str | None) -> None:
    """Raises if no model that is searched can have such a customer.

    Args:
        asked: the model that is searched; None: all of them.

    Raises:
        InputInvalid: each of these models has whole numbers for customers, and the text is none,
            or lies outside of their bounds.
    """
    keys = {m.name: m.request[m.assignment_unit] for m in models if asked in (None, m.name)}
    if not keys or any(_may_be(text, key) for key in keys.values()):
        return
    bounds = [f"{_bounds(key)} for {name}" for name, key in keys.items()]
    wanted = f"a whole number{' or '.join(bounds)}"
    raise InputInvalid("search", None, f"Customer id is {text[:MOST_TYPED]!a}; wanted: {wanted}")


def _bounds(key: RequestField) -> str:
    least = "" if key.minimum is None else f" of {key.minimum:,.0f} or more"
    most = "" if key.maximum is None else f" of {key.maximum:,.0f} or less"
    return " and".join(filter(None, (least, most)))


def _may_be(text: str, key: RequestField) -> bool:
    if key.type != "int64":
        return True
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS):
        return False
    is_low = key.minimum is not None and int(text) < key.minimum
    return not is_low and (key.maximum is None or int(text) <= key.maximum)


def _beside(row: Mapping[str, Any], event_ms: int, scale: DecisionScale | None) -> BesideRow:
    gap_ms = row["event_ms"] - event_ms
    apart = "at the same time"
    if gap_ms:
        apart = f"{duration_text(abs(gap_ms) / 1000)} {'later' if gap_ms > 0 else 'earlier'}"
    return BesideRow(
        decision_id=row["decision_id"],
        event_ms=row["event_ms"],
        apart=apart,
        decision=row["decision"],
        tone=decisions.tone(scale, row["decision"]),
        score=decisions.score_text(scale, row["score"]),
        version=row["version"],
        degraded_reason=row["degraded_reason"],
    )


class DecisionViews:
    """Views of decisions. Methods run on threads; each raises as its source does."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def routes(self) -> list[Route]:
        """The routes of these views."""
        return [
            Route("/decisions", answering(self.decisions, self._refused_link), methods=["GET"]),
            Route("/decisions", self.find, methods=["POST"]),
            Route("/decisions.csv", or_problem(self._file), methods=["GET"]),
            Route("/decisions/{name}", answering(self.decision), methods=["GET"]),
        ]

    def decisions(self, request: Request) -> str:
        """The results of a search, below its form.

        Raises:
            InputInvalid: a field of the search is wrong.
        """
        query = search.query(dict(request.query_params))
        found = self._sources.decisions(query, UNIT_ROWS if query.unit is not None else PAGE_ROWS)
        return self._list(query, found, search.typed(query), problem="")

    async def find(self, request: Request) -> Response:
        """The response that turns a form's search into a link, so that no address and no log holds
        what was typed. A wrong form is shown again as it was filled in."""
        try:
            fields = await forms.read(request)
        except InputInvalid as error:
            return problem_of(request, error)
        return await run_in_threadpool(self._found, request, fields)

    def decision(self, request: Request) -> str:
        """One decision with everything on record about it."""
        name = request.path_params["name"]
        found = self._sources.decision(name)
        label = self._sources.label(found[0].model) if found else ""
        shown = decisions.decision(found, label)
        decided = shown.decided
        word = "" if decided is None else decided.score.word
        asks_why = "why" in request.query_params
        return render(
            "decision.html",
            here="decisions",
            name=name,
            shown=shown,
            reasons={} if decided is None else self._sources.reasons(decided.model),
            beside=None if decided is None else or_why(lambda: self._beside(decided)),
            review=None if decided is None else self._review(decided.model, name),
            trace_url=self._trace_url,
            why=or_why(lambda: explanation_details(self._sources.why(name), word))
            if asks_why
            else None,
        )

    def _beside(self, decided: RecordDetail) -> list[BesideRows]:
        """The decisions beside one in time, of its customer first."""
        found, scale = self._sources.neighbours(decided), self._sources.scale(decided.model)
        made = []
        if found.of_unit is not None:
            title = "Of the same customer"
            every = search.Query(model=decided.model, unit=found.unit).link()
            made.append(BesideRows.of(title, found.of_unit, decided.event_ms, scale, every))
        around_ms = (decided.event_ms - MINUTE_MS, decided.event_ms + MINUTE_MS)
        every = search.Query(decided.model, None, max(around_ms[0], 0), around_ms[1]).link()
        title = f"Of {decided.model}"
        return [*made, BesideRows.of(title, found.of_model, decided.event_ms, scale, every)]

    def _review(self, model: str, name: str) -> str:
        """The act of review that the reader may do on this decision, as a link's text; empty if
        none."""
        reader, platform = READER.get(), self._sources.platform
        if reader is None or not reader.may_review(model):
            return ""
        try:
            if review.queued_decision(platform, model, name) is not None:
                return "Say how it turned out"
            review.labelled_decision(platform, model, name)
        except PlatformError:  # the page of the review says why
            return ""
        return "Correct the label that an analyst gave it"

    def _trace_url(self, record: RecordDetail) -> str:
        grafana = self._sources.platform.settings.servers.grafana
        return trace_link(grafana, record.trace_id, dict(record.fields).get("recorded_ms"))

    def _found(self, request: Request, fields: Mapping[str, str]) -> Response:
        try:
            path = self._path(fields)
        except InputInvalid as error:
            return self._refused(fields, str(error))
        except PlatformError as error:
            return problem_of(request, error)
        return Response(status_code=303, headers={"Location": path})

    def _path(self, form: Mapping[str, str]) -> str:
        """The path that a search form leads to. A customer's id goes no further than its
        pseudonym."""
        fields = dict(form)
        decision_id = fields.pop("decision_id", "").strip()
        if decision_id:
            return f"/decisions/{quote(decision_id, safe='')}"
        customer = fields.pop("customer", "").strip()
        query = search.query(fields)
        if customer:
            check_customer(customer, self._models(), query.model)
            query = replace(query, unit=self._sources.pseudonym(customer))
        return f"{query.link()}#found"

    def _reasons(self, models: Iterable[ModelDefinition]) -> dict[str, Mapping[str, str]]:
        """Model → code → words, of models with reasons."""
        found = {model.name: self._sources.reasons(model.name) for model in models}
        return {name: words for name, words in found.items() if words}

    def _models(self) -> list[ModelDefinition]:
        found = or_why(self._sources.models)
        return [] if isinstance(found, str) else [model.definition for model in found]

    def _refused_link(self, request: Request, why: str) -> Response:
        return self._refused(dict(request.query_params), why)

    def _refused(self, fields: Mapping[str, str], why: str) -> Response:
        """The form with what was typed, and the problem above it; nothing is searched."""
        typed = {name: fields.get(name, "").strip()[:MOST_TYPED] for name in TYPED}
        problem = why.removeprefix("search: ")
        return html(self._list(search.Query(), None, typed, problem=problem), 400)

    def _list(
        self,
        query: search.Query,
        found: SearchResult | None,
        typed: Mapping[str, str],
        *,
        problem: str,
    ) -> str:
        known = self._models()
        reasons = self._reasons(known)
        there = {row["model"] for row in found.rows} if found is not None else set()
        scales = {name: self._sources.scale(name) for name in there}
        words = {name: self._sources.reasons(name) for name in there}
        return render(
            "decisions.html",
            here="decisions",
            query=query,
            found=found,
            typed=typed,
            problem=problem,
            tone=lambda model, decision: decisions.tone(scales[model], decision),
            score=lambda model, score: decisions.score_text(scales[model], score),
            score_heading=decisions.score_heading(scales.values()),
            reason=lambda model, code: words[model].get(code, code),
            reasons=reasons,
            retired=query.reason if query.reason not in {*chain(*reasons.values())} else None,
            names=[model.name for model in known],
            outcomes=list(dict.fromkeys(name for m in known for name in m.decision.scale.names)),
            most_exported=exports.MOST_ROWS,
        )

    def _file(self, request: Request) -> Response:
        query = search.query(dict(request.query_params))
        found = self._sources.decisions(query, exports.MOST_ROWS, search.READ, exports.BUDGET_S)
        made = exports.export(found)
        named = {"Content-Disposition": f'attachment; filename="{made.name}"'}
        return Response(made.text, 200, named, "text/csv; charset=utf-8")
