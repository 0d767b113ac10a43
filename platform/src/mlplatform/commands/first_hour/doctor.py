"""The command that says what this machine and home lack."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter

import typer

from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import AsJson, print_json, print_line, print_table
from mlplatform.operations import wiring
from mlplatform.operations.supervisor import machine, machine_facts
from mlplatform.runtime.configuration.settings import Settings, home_of
from mlplatform.runtime.errors import ConfigInvalid


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(json: AsJson = False) -> None:
    """Show what machine, ports, packages, clock, home and platform lack, and how to mend it.

    Changes nothing. Exit code 1: something needed is missing; findings that are optional or unknown
    are shown too.

    Example: mlplatform doctor
    """
    settings: Settings | None = None
    problem = ""
    try:
        settings = wiring.settings()
    except ConfigInvalid as error:
        problem = str(error)
    facts = machine_facts.read(home_of(os.environ), settings, problem)
    found = machine.check(facts)
    lacking = Counter(finding.state for finding in found)["lacking"]
    if json:
        print_json([dataclasses.asdict(finding) for finding in found])
    else:
        rows = [(f.state, f.what, f.seen, f.do) for f in found]
        print_table(("state", "what", "seen", "to do"), rows, prose="to do")
        print_line(f"{lacking} of {len(found)} checks failed" if lacking else "all is well")
        if command := machine.start_elsewhere(facts):
            print_line(f"start on free ports: {command}")
    if lacking:
        raise typer.Exit(FAILED)
