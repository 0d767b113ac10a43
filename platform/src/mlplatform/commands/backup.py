"""Commands that take a backup of the platform's state, and restore one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mlplatform.commands.terminal.exit_codes import FAILED
from mlplatform.commands.terminal.output import (
    ERR,
    OUT,
    AsJson,
    print_fields,
    print_json,
    print_line,
)
from mlplatform.operations import wiring
from mlplatform.operations.backup.archive import Progress
from mlplatform.operations.backup.manifest import Manifest
from mlplatform.operations.backup.restore import RestoreReport, check
from mlplatform.operations.backup.restore import restore as put_back
from mlplatform.operations.backup.retention import name_at, superseded_backups
from mlplatform.operations.backup.take import back_up
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.units import MIB


def add_to(app: typer.Typer) -> None:
    app.command()(backup)
    app.command()(restore)


def backup(
    target: Annotated[
        Path,
        typer.Argument(help="A new folder, or a new file that ends in .tar."),
    ],
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Write a .tar named by the time into the folder TARGET, check it, and keep this "
            "many.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Copy the platform's whole state, whether it runs or not. Guard the copy as the home itself.

    Example: mlplatform backup /backups/2026-11-25.tar
    """
    now_ms = SystemClock().wall_ms()
    path = target.absolute() if keep is None else target.absolute() / name_at(now_ms)
    with _progress("copying") as progress:
        manifest = back_up(wiring.settings(), path, now_ms=now_ms, progress=progress)
    removed = [] if keep is None else _keep(path, keep)
    if json:
        print_json({"backup": str(path), "removed": removed, **_facts(manifest)})
    else:
        print_fields({"backup": path, **_fields(manifest)})
        if removed:
            print_fields({"removed": ", ".join(removed)})


def _keep(path: Path, keep: int) -> list[str]:
    """Check a new backup, then remove the older ones beyond the newest `keep`; a damaged new one is
    renamed and nothing is removed."""
    with _progress("checking") as progress:
        findings = check(path, progress=progress).findings
    if findings:
        bad = path.with_name(f"damaged-{path.name}")
        path.rename(bad)
        raise Corrupt(
            f"the new backup is damaged ({bad}), so no older one was removed: {'; '.join(findings)}"
        )
    removed = superseded_backups((file.name for file in path.parent.iterdir()), keep)
    for name in removed:
        (path.parent / name).unlink()
    return removed


def restore(
    source: Annotated[Path, typer.Argument(help="A backup that `mlplatform backup` made.")],
    check_only: Annotated[
        bool, typer.Option("--check", help="Only check it against its digests; change nothing.")
    ] = False,
    despite_findings: Annotated[
        bool,
        typer.Option(
            help="Accept a log that was damaged before; a damaged backup is never accepted."
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Restore a backup into an empty home folder, after checking every digest and the decision log.

    If the checks find something, the command prints a sentence for each finding, puts nothing in
    place and exits with 1.

    Example: mlplatform restore /backups/2026-11-25.tar
    """
    settings, now_ms = wiring.settings(), SystemClock().wall_ms()
    with _progress("checking" if check_only else "restoring") as progress:
        done = (
            check(source, progress=progress)
            if check_only
            else put_back(
                source,
                settings,
                now_ms=now_ms,
                progress=progress,
                despite_findings=despite_findings,
            )
        )
    if json:
        print_json(_restored(done))
    else:
        _print_restored(done, str(settings.home.root), check_only=check_only)
    if done.findings and done.contents is None:
        raise typer.Exit(FAILED)


@contextmanager
def _progress(verb: str) -> Iterator[Progress]:
    """A status line on standard error with the file that is copied and the amount done."""
    done = 0
    with ERR.status(verb) as status:

        def advance(name: str, count: int) -> None:
            nonlocal done
            done += count
            status.update(f"{verb} {name}: {done // MIB} MiB so far")

        yield advance


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "taken_ms": manifest.taken_ms,
        "platform": manifest.platform,
        "files": len(manifest.files),
        "bytes": manifest.bytes,
        "schemas": manifest.schemas,
        "log": None if manifest.log is None else dataclasses.asdict(manifest.log),
        "spilled_bytes": sum(manifest.spilled.values()),
        "journal_rows": manifest.journal.rows if manifest.journal else 0,
        "generations": manifest.journal.generations if manifest.journal else {},
    }


def _fields(manifest: Manifest) -> dict[str, object]:
    heads = manifest.log.writers if manifest.log else {}
    fields: dict[str, object] = {
        "files": f"{len(manifest.files)}, {manifest.bytes / MIB:.1f} MiB",
        "decision log": ", ".join(f"{name} to {head.seq}" for name, head in heads.items()),
        "journal": f"{manifest.journal.rows if manifest.journal else 0} rows",
    }
    if manifest.spilled:
        fields["spilled"] = f"{sum(manifest.spilled.values())} bytes, not in the log yet"
    return fields


def _restored(done: RestoreReport) -> dict[str, Any]:
    return {
        **_facts(done.manifest),
        "findings": done.findings,
        "verified": None if done.log is None else dataclasses.asdict(done.log),
        "contents": None if done.contents is None else dataclasses.asdict(done.contents),
    }


def _print_restored(done: RestoreReport, home: str, *, check_only: bool) -> None:
    for finding in done.findings:
        print_line(finding)
    if done.log is not None:
        whole = "whole" if done.log.ok else "NOT whole"
        counts = f"{done.log.records} records of {done.log.writers} writers"
        print_fields(
            {
                "files": f"{len(done.manifest.files)} files, each with the content of its digest",
                "decision log": f"{whole}: {counts}",
                "spilled": f"{done.log.spilled} records, which the next start moves into the log",
            }
        )
    if done.contents is not None:
        print_fields(_contents(done))
        print_line(f"restored into {home}; `mlplatform up` starts it")
    elif done.findings:
        OUT.print("nothing was put in place" if not check_only else "the backup is damaged")
    else:
        OUT.print("the backup is whole")


def _contents(done: RestoreReport) -> dict[str, object]:
    if done.contents is None:
        return {}
    found = done.contents
    champions = (f"{model} v{version}" for model, version in found.champions.items() if version)
    return {
        "champions": ", ".join(champions) or "none",
        "rollouts": ", ".join(f"{count} {phase}" for phase, count in found.rollouts.items()),
        "live API keys": found.keys,
        "bundles": found.bundles,
    }
