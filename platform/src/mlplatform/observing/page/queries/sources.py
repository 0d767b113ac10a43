"""The page's data, read through the platform's ports in bounded parts."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlplatform.decisions.log.lookup import all_records, logged_records, not_logged
from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.learning.registry.versions import Version
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import (
    load_definition,
    model_folder,
    model_names,
    readable_names,
)
from mlplatform.model.policies.decision_scale import DecisionScale
from mlplatform.model.routes import Routes, no_routes
from mlplatform.observing.page.queries import decisions, error_budget, firing_alerts
from mlplatform.observing.page.queries.burn_rates import BurnRates, SpentShares
from mlplatform.observing.page.queries.decisions import RecordDetail
from mlplatform.observing.page.queries.error_budget import BudgetTable
from mlplatform.observing.page.queries.evidence_index import EvidenceIndex
from mlplatform.observing.page.queries.firing_alerts import AlertTable
from mlplatform.observing.page.queries.model_source import DefinitionSource, definition_source
from mlplatform.observing.page.queries.neighbours import (
    DecisionNeighbours,
    Place,
    neighbours,
    neighbours_of_unit,
)
from mlplatform.observing.page.queries.platform_reads import PlatformReads, translated
from mlplatform.observing.page.queries.reason_words import reason_words, with_reasons
from mlplatform.observing.page.queries.rollouts import EvidenceDetail, evidence
from mlplatform.observing.page.queries.schedules import Schedules, ScheduleTable
from mlplatform.observing.page.queries.search import BUDGET_S, SHOWN, Query, SearchResult, search
from mlplatform.observing.page.queries.turns import turn
from mlplatform.observing.slo import objectives
from mlplatform.observing.slo.objectives import Objectives
from mlplatform.operations.actions import traffic
from mlplatform.operations.actions.interim_analyses import StepHistory, step_histories
from mlplatform.operations.card.card import Card
from mlplatform.operations.card.records import read_card
from mlplatform.operations.supervisor.status import (
    SCHEDULER,
    KeptMemory,
    PlatformStatus,
    status,
)
from mlplatform.operations.traffic import input_windows
from mlplatform.operations.traffic.input_windows import InputHistory
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.rollouts.journal.controls import Killed, fold_controls
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.runtime.errors import ConfigInvalid, NotFound, Unavailable
from mlplatform.runtime.telemetry.refusals import of_the_last_day
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.explanations.record_thresholds import record_thresholds

if TYPE_CHECKING:  # imports ONNX Runtime
    from mlplatform.scoring.request.explain import Explanation

T = TypeVar("T")

MOST_SEARCHES: Final = 4
"""Most searches at a time: each may read many records, and threads that wait for a turn answer
nobody else."""
MOST_VERSIONS: Final = 500
"""Most versions that are remembered."""
MOST_ALERTING: Final = 4
"""Most requests that wait for Alertmanager at a time."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model and its routes, and who switched it off, if somebody did."""

    definition: ModelDefinition
    routes: Routes
    killed: Killed | None = None

    @property
    def is_reviewed(self) -> bool:
        """Whether people review decisions of the model."""
        return bool(self.definition.label.review.reviewed(self.definition.decision))


class Sources(PlatformReads):
    """The page's data. Safe for threads; each store is opened when it is first needed.

    Args:
        may_see: whether the present reader may see a model; data of other models is left out.
        burn_rates: what Prometheus has measured; None if no Prometheus is named.
        schedules: what Prefect plans and has run; None if Prefect is not asked.
    """

    platform: Platform

    def __init__(
        self,
        platform: Platform,
        may_see: Callable[[str], bool] = lambda model: True,
        burn_rates: BurnRates | None = None,
        schedules: Schedules | None = None,
    ) -> None:
        super().__init__(platform)
        self._may_see = may_see
        self._explaining = threading.Semaphore(1)
        self._searching = threading.Semaphore(MOST_SEARCHES)
        self._alerting = threading.Semaphore(MOST_ALERTING)
        self._evidence = EvidenceIndex()
        self._versions: dict[tuple[str, int], Version] = {}
        self._burn_rates = burn_rates
        self._schedules = schedules
        self._memory = KeptMemory()

    def without_restriction(self) -> Sources:
        """The data of every model, for code that checks the reader's rights itself."""
        every = copy.copy(self)  # with the same locks
        every._may_see = lambda model: True
        return every

    def processes(self) -> PlatformStatus | None:
        """The processes of this machine's supervisor, Prefect also by what it answers to this page;
        None if the page runs elsewhere, as in a pod."""
        settings = self.platform.settings
        if settings.servers.page:
            return None
        silence = "" if self._schedules is None else self._schedules.silence()
        return status(settings.home, self._memory).unanswered(SCHEDULER, silence)

    def refusal_counts(self) -> Mapping[str, int]:
        """Surface → number of its refusals in the last day."""
        return of_the_last_day(self.platform.settings.home)

    def alerts(self) -> AlertTable | None:
        """The firing alerts, by Alertmanager; None if no setting names one.

        Raises:
            Unavailable: Alertmanager does not answer, or too many other requests wait for its
                answer.
        """
        url = self.platform.settings.servers.alertmanager
        if not url:
            return None
        with turn(self._alerting, "others wait for Alertmanager's answer"):
            return firing_alerts.firing_alerts(
                url, shipped_objectives().runbooks, self._other_models()
            )

    def schedules(self) -> ScheduleTable | None:
        """The schedules of flows with their runs, by Prefect; None if Prefect is not asked.

        Raises:
            Unavailable: Prefect does not answer in time.
            Refused: Prefect's gate refuses this page.
        """
        return (
            None
            if self._schedules is None
            else self._schedules.read().without(self._other_models())
        )

    def _other_models(self) -> list[str]:
        return [name for name in model_names() if not self._may_see(name)]

    def models(self) -> list[ModelRow]:
        """The models of this installation whose model.yaml can be read; the log reports others.

        Raises:
            Unavailable: the journal does not answer.
        """
        return [self.model(name) for name in readable_names() if self._may_see(name)]

    def model(self, name: str) -> ModelRow:
        """A model and its routes.

        Raises:
            NotFound: there is no such model.
            Unavailable: the journal does not answer.
        """
        self._check_visible(name)
        routes = self._of_journal(lambda journal: journal.routes(name), no_routes(name))
        return ModelRow(load_definition(name), routes, self.killed(name) if routes.killed else None)

    def killed(self, model: str) -> Killed | None:
        """The person who switched a model off, and the reason; None if it is on.

        Raises:
            Unavailable: the journal does not answer.
        """
        by: Killed | None = None
        return self._of_journal(lambda j: fold_controls(j.controls(model)).killed, by)

    def input_history(self, model: str) -> InputHistory:
        """The windows that drift checks of a model have kept; empty before the first.

        Raises:
            NotFound: there is no such model.
            Corrupt: the stored windows are damaged.
        """
        self._check_visible(model)
        return input_windows.read(self.platform.settings.home.measured, model)

    def definition_source(self, model: str) -> DefinitionSource:
        """The model.yaml that is read here, with the digest of the model's folder.

        Raises:
            NotFound: there is no such model.
            Unavailable: the file can't be read now.
        """
        self._check_visible(model)
        return definition_source(model_folder(model))

    def error_budgets(self, model: ModelDefinition) -> BudgetTable:
        """The spending of a model's error budgets, as far as passes have counted.

        Raises:
            Unavailable: it can't be read now.
            ConfigInvalid: slo.yaml is wrong.
        """
        objectives = shipped_objectives()
        found = traffic.read(self.platform, model.name, objectives.window_days * DAY_MS)
        return error_budget.budget_table(model, objectives, found, self._read_burn_rates())

    def _read_burn_rates(self) -> SpentShares | str | None:
        if self._burn_rates is None:
            return None
        try:
            return self._burn_rates.read()
        except Unavailable as error:
            return f"Prometheus cannot be asked: {error}"

    def rollouts(self, model: str | None = None, *, skip: int = 0, most: int) -> list[RolloutState]:
        """A part of all rollouts, newest first; only the journals of these are read.

        Args:
            skip: number of newer rollouts to leave out.
            most: largest number of rollouts to return.
        """

        def part(journal: SqlRollouts) -> list[RolloutState]:
            known = [
                (name, of) for name, of in journal.list_rollouts() if model is None or of == model
            ]
            visible = [name for name, of in known if self._may_see(of)]
            return [fold(journal.read(name)) for name in visible[skip : skip + most]]

        nothing: list[RolloutState] = []
        return self._of_journal(part, nothing)

    def rollouts_under_way(self) -> list[RolloutState]:
        """Rollouts with a next step, the newest first."""
        found: list[RolloutState] = self._of_journal(lambda journal: journal.active()[::-1], [])
        return [state for state in found if self._may_see(state.model)]

    def rollout(self, rollout_id: str) -> tuple[Transition, ...]:
        """All transitions of a rollout.

        Raises:
            NotFound: nothing with this name exists.
        """
        facts: tuple[Transition, ...] = self._of_journal(lambda j: j.read(rollout_id), ())
        if not facts or not self._may_see(facts[0].model):
            raise NotFound(f"no rollout {rollout_id!r}")
        return facts

    def histories(self, opened: Transition) -> list[StepHistory]:
        """The stored analyses of the steps of the rollout that has this transition."""
        folder = self.platform.settings.home.interim_analyses
        return step_histories(folder, opened.model, opened.rollout_id)

    def evidence(self, digest: str) -> EvidenceDetail:
        """The evidence with this digest, from the newest transition that carries it.

        Raises:
            NotFound: no transition carries it.
        """
        no_facts: tuple[Transition, ...] = ()

        def carrying(journal: SqlRollouts) -> tuple[Transition, ...]:
            rollout_id = self._evidence.rollout_of(journal, digest)
            return no_facts if rollout_id is None else journal.read(rollout_id)

        facts = self._of_journal(carrying, no_facts)
        for fact in reversed(facts):
            carries = fact.evidence and fact.evidence_digest == digest
            if carries and self._may_see(fact.model) and (found := evidence(fact)) is not None:
                return found
        raise NotFound(f"no transition carries evidence {digest!r}")

    def versions(self, model: str, numbers: Sequence[int]) -> list[Version]:
        """The registry's data on these versions; unknown versions are left out. A version does not
        change, so each is asked for once.

        Raises:
            Unavailable: the registry does not answer.
        """
        with self._opening:
            registry = self.platform.registry
        found = []
        for number in numbers:
            known = self._versions.get((model, number))
            if known is None:
                try:
                    known = registry.get(model, number)
                except NotFound:
                    continue
                if len(self._versions) >= MOST_VERSIONS:
                    self._versions.clear()
                self._versions[model, number] = known
            found.append(known)
        return found

    def card(self, model: str, version: int) -> Card:
        """The card of a version, as far as its data is on this machine or in the registry.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: registry or journal do not answer.
            Corrupt: stored data of the version is damaged.
        """
        self._check_visible(model)
        with translated(), self._opening:
            _ = self.platform.registry
            if scoring_wiring.has_rollouts(self.platform.settings):
                _ = self.platform.rollouts, self.platform.incidents
        with translated():
            return read_card(self.platform, model, version, fetches=False)

    def incidents(self, *, closed: bool = True) -> list[Incident]:
        """Incidents, the newest first: all, or those that are not closed."""
        if not scoring_wiring.has_rollouts(self.platform.settings):
            return []
        with translated(), self._opening:
            incidents = self.platform.incidents
        with translated():
            every = incidents.list(closed=closed)[::-1]
        return [found for found in every if self._may_see(found.found.model)]

    def incident(self, name: str) -> Incident:
        """One incident.

        Raises:
            NotFound: nothing with this name exists.
        """
        for incident in self.incidents():
            if incident.id == name:
                return incident
        raise NotFound(f"no incident {name!r}; the list has every one")

    def decisions(
        self, query: Query, rows: int, columns: Sequence[str] = SHOWN, budget_s: float = BUDGET_S
    ) -> SearchResult:
        """A page of the decisions that match, with the codes of their reasons; empty if there is no
        log yet.

        Args:
            budget_s: seconds after which the search ends; the next page goes on from there.

        Raises:
            Unavailable: too many other searches run now.
        """
        log = self._log()
        if log is None:
            return SearchResult(())
        reached = (mark.event_ms for mark in log.watermarks())
        newest_ms = max((ms for ms in reached if ms is not None), default=0)
        with turn(self._searching, "other searches go on"):
            first_ms = self.first_stretch_ms(query, newest_ms)
            found = search(
                log.read, query, newest_ms, rows, columns, first_ms=first_ms, budget_s=budget_s
            )
            seen = [row for row in found.rows if self._may_see(row["model"])]
            return replace(found, rows=with_reasons(log.read, seen))

    def pseudonym(self, customer: str) -> int:
        """The pseudonym that the log holds in place of a customer's id; the id is neither stored
        nor logged.

        Raises:
            NotFound: this installation has no key yet, because no decision was made.
            ConfigInvalid: the file of the key holds no valid key.
        """
        home = self.platform.settings.home
        if home.shared_pseudonym_key is None and not home.pseudonym_key.is_file():
            raise NotFound("no decision was made here yet, so no customer is known")
        return pseudonym(customer, self.platform.pseudonym_key())

    def why(self, decision_id: str) -> list[Explanation]:
        """The causes of a decision, computed again from its record and its bundle, one decision at
        a time.

        Raises:
            NotFound: the decision, its payload or its bundle is not here, nor in the bundle store.
            ConfigInvalid, Corrupt: the model folder does not fit the bundle, or stored data is
                damaged.
            Unavailable: another decision is being explained, or the store does not answer.
        """
        from mlplatform.scoring.request import explain  # imports ONNX Runtime

        log = self._log()
        if log is None:
            raise not_logged(decision_id)
        rows, bundles = logged_records(log, decision_id), self.platform.settings.home.bundles
        self._check_record_visible(rows, decision_id)
        with turn(self._explaining, "another decision is being explained"):
            self.platform.bundles.fetch({row["bundle"] for row in rows} - {None})
            return explain.explain_rows(rows, lambda *of: explain.load_decider(bundles, *of))

    def decision(self, decision_id: str) -> list[RecordDetail]:
        """Every record of a decision.

        Raises:
            NotFound: the log has no such decision.
        """
        log = self._log()
        if log is None:
            raise not_logged(decision_id)
        rows = all_records(log, decision_id)
        self._check_record_visible(rows, decision_id)
        held_to = record_thresholds(rows, self.platform.settings.home.bundles)
        return [
            decisions.record(
                found, self.scale(found["model"]), self._pseudonyms(found["model"]), thresholds
            )
            for found, thresholds in zip(rows, held_to, strict=True)
        ]

    def neighbours(self, found: RecordDetail) -> DecisionNeighbours:
        """The decisions beside one in time.

        Raises:
            NotFound: there is no log.
            Unavailable: too many searches run now.
        """
        log, fields = self._log(), dict(found.fields)
        if log is None:
            raise not_logged(str(fields.get("decision_id")))
        place, unit = Place(found.event_ms, fields["writer"], fields["seq"]), fields.get("unit")
        with turn(self._searching, "other searches go on"):
            of_model, of_unit = neighbours(log.read, found.model, place), None
            if unit is not None:
                of_unit = neighbours_of_unit(log.read, found.model, place, unit, of_model)
            return DecisionNeighbours(of_unit, of_model, unit)

    def reasons(self, model: str) -> Mapping[str, str]:
        """Code → words of a model's reasons; empty if no folder has them."""
        found = _declared(model)
        try:
            return {} if found is None else reason_words(found)
        except (NotFound, ConfigInvalid):
            return {}

    def scale(self, model: str) -> DecisionScale | None:
        """The decisions that a model may make; None where no folder declares them."""
        found = _declared(model)
        return None if found is None else found.decision.scale

    def label(self, model: str) -> str:
        """The name of a model's label; empty where no folder declares it."""
        found = _declared(model)
        return "" if found is None else found.label.name

    def _pseudonyms(self, model: str) -> frozenset[str]:
        found = _declared(model)
        fields = {} if found is None else found.request
        return frozenset(name for name, field in fields.items() if field.pseudonymous)

    def _check_visible(self, model: str) -> None:
        if model not in model_names() or not self._may_see(model):
            seen = [name for name in model_names() if self._may_see(name)]
            raise NotFound(f"there is no model {model!r}; there are: {', '.join(seen) or 'none'}")

    def _check_record_visible(self, rows: Sequence[Mapping[str, Any]], decision_id: str) -> None:
        if not all(self._may_see(row["model"]) for row in rows):
            raise not_logged(decision_id)


def _declared(model: str) -> ModelDefinition | None:
    """The definition of a model; None where no folder has a valid one."""
    try:
        return load_definition(model)
    except (NotFound, ConfigInvalid):
        return None


@functools.cache
def shipped_objectives() -> Objectives:
    """The objectives of the release, like the alerts that are made from them."""
    return objectives.load(objectives.SHIPPED)
