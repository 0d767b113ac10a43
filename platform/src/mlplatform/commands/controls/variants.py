"""Commands for A/B/n tests: start one, raise its shares, compare its arms, end it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import msgspec
import typer

from mlplatform.commands.terminal.arguments import Actor, Model, Reason
from mlplatform.commands.terminal.output import (
    AsJson,
    print_fields,
    print_json,
    print_line,
    print_table,
)
from mlplatform.operations import wiring
from mlplatform.operations.actions import controls as job
from mlplatform.rollouts.journal.controls import VariantTestState
from mlplatform.rollouts.journal.variants import MOST_DAYS, MOST_VARIANTS
from mlplatform.rollouts.variants.comparison import ArmFigures, ShareInterval
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.figures import percent
from mlplatform.runtime.times import minute_text

NO_DATA: Final = "no data"
DEFAULT_DAYS: Final = 14.0

app = typer.Typer(
    help="A/B/n tests: former champions answer shares of the customers beside the champion.",
    no_args_is_help=True,
)

Shares = Annotated[
    list[str],
    typer.Option(
        "--version",
        metavar="VERSION=PERCENT",
        help=f"A former champion and its share of the customers; up to {MOST_VARIANTS} times.",
    ),
]


@app.command()
def start(
    model: Model,
    version: Shares,
    actor: Actor,
    reason: Reason,
    days: Annotated[
        float, typer.Option(min=0.01, max=MOST_DAYS, help="Days for which the variants answer.")
    ] = DEFAULT_DAYS,
    json: AsJson = False,
) -> None:
    """Start a test: versions that were champion before answer shares of the customers.

    A customer keeps its variant for the whole test. Passes start the services, and then the
    variants answer. A variant that is proven to fail is taken out by itself. Nothing is promoted.

    Example: mlplatform variants start fraud --version 5=20 --actor ana --reason "finds more?"
    """
    test = job.start_variants(
        wiring.existing_platform(),
        model,
        shares_of(version),
        days=days,
        actor=actor,
        reason=reason,
    )
    _say(test, "is started; its variants answer once passes have started their services", json)


@app.command("raise")
def raise_shares(
    model: Model, version: Shares, actor: Actor, reason: Reason, json: AsJson = False
) -> None:
    """Raise shares of the running test. Variants keep their customers, and get more.

    Example: mlplatform variants raise fraud --version 5=30 --actor ana --reason "too few alerts"
    """
    test = job.raise_variants(
        wiring.existing_platform(), model, shares_of(version), actor=actor, reason=reason
    )
    _say(test, "has larger shares", json)


@app.command()
def end(model: Model, actor: Actor, reason: Reason, json: AsJson = False) -> None:
    """End the running test at once: the champion answers everybody.

    Example: mlplatform variants end fraud --actor ana --reason "version 6 finds more"
    """
    test = job.end_variants(wiring.existing_platform(), model, actor=actor, reason=reason)
    _say(test, "is over: the champion answers everybody", json)


@app.command()
def show(model: Model, json: AsJson = False) -> None:
    """Show the newest test, with what each arm has done since the variants answer.

    Example: mlplatform variants show fraud
    """
    test, figures = job.compare_variants(wiring.existing_platform(), model)
    if json:
        arms = [asdict(one) for one in figures]
        print_json({"test": None if test is None else msgspec.to_builtins(test), "arms": arms})
        return
    if test is None:
        print_line(f"no test of {model} has run; `mlplatform variants start {model}` starts one")
        return
    print_fields(test_fields(test))
    if not figures:
        print_line(f"{NO_DATA}: the variants have not answered yet")
        return
    print_table(ARM_COLUMNS, [arm_row(one) for one in figures])


ARM_COLUMNS: Final = (
    *("arm", "version", "share", "customers", "requests", "failures", "alerts"),
    *("p50 ms", "p99 ms", "matured", "recall", "precision"),
)


def test_fields(test: VariantTestState) -> dict[str, str]:
    """The fields of a test that people see, besides its figures."""
    started, began = test.started, test.answering
    found = {
        "test": started.test_id,
        "started": f"{minute_text(started.event_ms)} by {started.actor}: {started.reason}",
        "answers since": "not yet" if began is None else minute_text(began.event_ms),
        "days": f"{started.days:g}",
    }
    for removal in test.removals:
        when = minute_text(removal.event_ms)
        found[f"version {removal.version} taken out"] = f"{when}: {removal.reason}"
    if test.end is not None:
        found["ended"] = f"{minute_text(test.end.event_ms)} by {test.end.actor}: {test.end.reason}"
    return found


def arm_row(one: ArmFigures) -> tuple[object, ...]:
    """One arm's figures as texts, in the order of `ARM_COLUMNS`."""
    return (
        one.arm,
        one.version,
        f"{one.percent:g} %",
        f"{one.customers:,}",
        f"{one.requests:,}",
        _of(one.failures, one.requests),
        _of(one.alerts, one.answers),
        _ms(one.p50_ms),
        _ms(one.p99_ms),
        f"{one.matured:,}",
        _share(one.recall),
        _share(one.precision),
    )


def shares_of(texts: list[str]) -> dict[int, float]:
    """Version → percent of the customers, from texts such as `5=20`.

    Raises:
        InputInvalid: a text is not of this form, or a version is named twice.
    """
    found: dict[int, float] = {}
    for text in texts:
        version, _, share = text.partition("=")
        try:
            number, value = int(version), float(share)
        except ValueError as error:
            problem = f"{text!r} is not VERSION=PERCENT, as in 5=20"
            raise InputInvalid("--version", None, problem) from error
        if number in found or not 0 < value < 100:
            problem = f"{text!r}; wanted: each version once, with over 0 and under 100 percent"
            raise InputInvalid("--version", None, problem)
        found[number] = value
    return found


def _of(hits: int, trials: int) -> str:
    return f"{hits:,} ({percent(hits / trials)})" if trials else NO_DATA


def _ms(value: float | None) -> str:
    return NO_DATA if value is None else f"{value:.1f}"


def _share(found: ShareInterval | None) -> str:
    if found is None:
        return NO_DATA
    return f"{percent(found.value)} ({percent(found.low)} to {percent(found.high)})"


def _say(test: VariantTestState, done: str, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(test))
        return
    shares = ", ".join(f"version {v.arm.version} {v.percent:g} %" for v in test.variants)
    print_line(f"{test.started.test_id} {done} ({shares})")
