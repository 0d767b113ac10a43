"""The flow `retrain`: what it passes on, and how it ends with a version that was there before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.flows import load_flow_from_entrypoint

from mlplatform.operations.prefect_server.local_flows import FLOWS
from mlplatform.runtime.units import DAY_MS
from support.carded_version import version

BUNDLE = "b" * 64
NOTHING_NEW = "nothing is new: this made version 2 again"


class Run:
    """A retrain whose fit gave a bundle that may be registered; the work itself is left out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, known: bool, champion: int | None):
        self.flow = load_flow_from_entrypoint(f"{FLOWS / 'retrain.py'}:retrain")
        self.registered: list[tuple[str, str]] = []
        self.opened: list[int] = []
        self.answers: list[tuple[int, str]] = []
        candidate = SimpleNamespace(bundle=SimpleNamespace(digest=BUNDLE))
        window = SimpleNamespace(to_ms=21 * DAY_MS)
        prepared = SimpleNamespace(
            champion_version=champion, dataset=SimpleNamespace(window=window)
        )

        def register(_: Any, judged: Any, author: str, reason: str) -> Any:
            self.registered.append((author, reason))
            return version(BUNDLE)

        def open_retrained(_: Any, model: str, number: int, **__: Any) -> str:
            self.opened.append(number)
            return f"{model}-v{number}-1"

        @contextmanager
        def incident_answer(*_: Any) -> Iterator[Any]:
            yield lambda number, why: self.answers.append((number, why))

        registry = SimpleNamespace(versions=lambda model: [version(BUNDLE)] if known else [])
        inside = self.flow.fn.__globals__
        job, artifacts = inside["job"], inside["artifacts"]
        platform = SimpleNamespace(settings=None, registry=registry)
        monkeypatch.setattr(inside["wiring"], "platform", lambda: platform)
        monkeypatch.setattr(job, "check_trains", lambda model: None)
        monkeypatch.setattr(job, "incident_answer", incident_answer)
        monkeypatch.setattr(inside["drift"], "open_retrained", open_retrained)
        for name in ("keep_gates", "keep_links", "version_links", "rollout_links"):
            monkeypatch.setattr(artifacts, name, lambda *_: None)
        for name, result in (
            ("prepare", prepared), ("fit", candidate), ("try_folds", ()),
            ("validate", SimpleNamespace(report=None)),
        ):  # fmt: skip
            monkeypatch.setitem(inside, name, lambda *_, result=result: result)
        monkeypatch.setitem(inside, "to_dict", lambda report: {})
        monkeypatch.setitem(inside, "register", register)
        monkeypatch.setitem(inside, "made_before", inside["made_before"].fn)

    def end(self, **parameters: Any) -> str:
        state = self.flow.fn("fraud", "ana", "new terminals", **parameters)
        return str(state.message)


def test_who_asked_and_why_are_kept_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, known=False, champion=1)
    assert run.end().startswith("version 2 is registered; next: ")
    assert run.registered == [("ana", "new terminals")]
    assert run.answers == [(2, "")]


def test_the_champion_made_again_is_told_and_not_rolled_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, known=True, champion=2)
    told = run.end(open_rollout=True)
    assert told.startswith(NOTHING_NEW)
    assert "a day after 1970-01-21" in told
    assert told.endswith("Version 2 is the champion: there is nothing to roll out")
    assert not run.opened
    assert run.answers == [(2, told)]


def test_another_version_made_again_is_told_and_may_be_rolled_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, known=True, champion=1)
    told = run.end(open_rollout=True)
    assert told.startswith(NOTHING_NEW)
    assert "; rollout fraud-v2-1 is open; next: " in told
    assert (run.opened, run.answers) == ([2], [(2, "")])
