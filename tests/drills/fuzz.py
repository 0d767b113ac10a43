"""`make fuzz`: strange inputs for an hour, in pieces, at everything that reads what others wrote.

Pieces: the OpenAPI documents, bytes and gRPC messages at a running gateway and its predictor
(`fuzz_listeners`), every parser by itself (`fuzz_parsers`), and candidates: mutated ONNX, Parquet
and YAML (`fuzz_candidates`). Each runs in a process of its own, so that one that ends is found. The
report is build/drills/fuzz.json; a crash, an answer that is not declared, a process that ended or
memory over its limit fails the run.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from tests.drills.fuzz_parsers import parsers
from tests.drills.scoring import child_environment

ROOT: Final = Path(__file__).parents[2]
OUT: Final = ROOT / "build" / "drills" / "fuzz.json"
SHARES: Final = {"listeners": 0.4, "parsers": 0.35, "candidates": 0.25}
"""Of the whole time."""
SLICE_S: Final = 120.0
"""At most, for all listeners or for candidates in one go; then the others have their turn."""
GRACE_S: Final = 600.0
"""More than a piece takes to start, to finish its last example and to make it smaller."""
LIMITS_MIB: Final = {"listeners": 512.0, "parsers": 1024.0, "candidates": 1424.0}
"""Of a gateway, of a process with one parser, and of a confined one: 1 GiB over its libraries."""


def command(kind: str, seconds: float, seed: int, of: str = "") -> list[str]:
    """One piece in a process of its own; the seed is all that it takes to have it again."""
    wanted = {"listeners": ["--piece", of], "parsers": ["--parser", of], "candidates": []}[kind]
    timing = ["--seconds", f"{seconds:.0f}", "--seed", str(seed)]
    return [sys.executable, "-m", f"tests.drills.fuzz_{kind}", *wanted, *timing]


def run(kind: str, seconds: float, seed: int, of: str = "") -> list[dict[str, Any]]:
    """What a piece reports; one that ended without a report is itself a finding."""
    argv = command(kind, seconds, seed, of)
    asked, began_s = " ".join(argv[2:]), time.monotonic()
    process = subprocess.Popen(
        argv, cwd=ROOT, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        output, errors = process.communicate(timeout=seconds + GRACE_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=GRACE_S)
        return [_failed(kind, asked, f"not over after {seconds + GRACE_S:.0f} s", errors)]
    try:
        found = json.loads(output)
    except ValueError:
        return [_failed(kind, asked, f"ended with {process.returncode}", errors)]
    reports = found if isinstance(found, list) else [found]
    seconds = round(time.monotonic() - began_s, 1)
    return [_told(kind, asked, report, seconds) for report in reports]


def _failed(kind: str, asked: str, why: str, errors: bytes) -> dict[str, Any]:
    told = errors.decode(errors="replace")[-600:]
    return {"piece": kind, "again": asked, "cases": 0, "seconds": 0.0,
            "problems": [f"{why}: {told}"]}  # fmt: skip


def _told(kind: str, asked: str, report: dict[str, Any], seconds: float = 0.0) -> dict[str, Any]:
    """A piece's own report, with what is wrong in it as one list."""
    found: list[str] = []
    for name in ("crashes", "undeclared", "deaths", "over_memory"):
        value = report.get(name)
        if isinstance(value, list):
            found += [json.dumps(item) for item in value]
        elif value:
            found.append(f"{name}: {value}; {json.dumps(report.get('examples', []))[:1000]}")
    peak = report.get("gateway_peak_mib", report.get("peak_mib"))
    limit = report.get("gateway_limit_mib", LIMITS_MIB[kind])
    if peak is not None and peak >= limit:
        found.append(f"{peak} MiB resident, of {limit}")
    name = report.get("piece") or report.get("parser") or report.get("kind") or kind
    cases = report.get("cases", 0)
    return {
        "seconds": seconds,
        **report,
        "piece": f"{kind}: {name}",
        "again": asked,
        "cases": sum(cases.values()) if isinstance(cases, dict) else cases,
        "limit_mib": limit,
        "problems": found,
    }


def fuzz(seconds: float, seed: int, kinds: list[str]) -> list[dict[str, Any]]:
    """Rounds over all pieces until the time is over, each with seeds of its own."""
    began_s, reports, used = time.monotonic(), [], seed
    share = sum(SHARES[kind] for kind in kinds)
    while (left_s := seconds - (time.monotonic() - began_s)) > 0:
        for kind in kinds:
            mine = min(SLICE_S, left_s) * SHARES[kind] / share
            names = list(parsers()) if kind == "parsers" else [""]
            for name in names:
                made = run(kind, max(2.0, mine / len(names)), used, name)
                for report in made:
                    print(f"fuzz: {line(report)}", file=sys.stderr, flush=True)
                reports += made
        used += 10_000
    return reports


def line(report: dict[str, Any]) -> str:
    state = "; ".join(report["problems"])[:300] or "ok"
    return f"{report['piece']}: {report.get('cases', 0)} cases, {report['seconds']} s: {state}"


def summary(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """By piece: seconds, cases, highest memory, problems, and how to have it again."""
    pieces: dict[str, dict[str, Any]] = {}
    for report in reports:
        of = pieces.setdefault(
            report["piece"],
            {"seconds": 0.0, "cases": 0, "peak_mib": 0.0, "limit_mib": report.get("limit_mib"),
             "seeds": [], "problems": []},
        )  # fmt: skip
        of["seconds"] = round(of["seconds"] + float(report["seconds"]), 1)
        of["cases"] += int(report.get("cases", 0))
        peak = report.get("gateway_peak_mib", report.get("peak_mib")) or 0.0
        of["peak_mib"] = max(of["peak_mib"], float(peak))
        of["seeds"].append(report.get("seed"))
        of["problems"] += [{"what": p, "again": report["again"]} for p in report["problems"]]
    return pieces


def table(pieces: dict[str, dict[str, Any]]) -> Table:
    shown = Table("piece", "seconds", "cases", "peak MiB", "limit MiB", "problems")
    for name, of in sorted(pieces.items()):
        shown.add_row(name, f"{of['seconds']:.0f}", str(of["cases"]), f"{of['peak_mib']:.0f}",
                      f"{of['limit_mib'] or 0:.0f}", str(len(of["problems"])))  # fmt: skip
    return shown


def main() -> int:
    """Fuzzes, writes the report, prints what it says; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="tests.drills.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=SHARES, help="one kind of pieces")
    options = parser.parse_args()
    kinds = [options.only] if options.only else list(SHARES)
    if not (ROOT / "tests" / "drills" / "fuzz_candidates.py").exists():
        kinds = [kind for kind in kinds if kind != "candidates"]
    began_s = time.monotonic()
    pieces = summary(fuzz(options.seconds, options.seed, kinds))
    problems = sum(len(of["problems"]) for of in pieces.values())
    found = {
        "seconds": round(time.monotonic() - began_s, 1),
        "seed": options.seed,
        "cases": sum(of["cases"] for of in pieces.values()),
        "problems": problems,
        "ok": problems == 0 and bool(pieces),
        "pieces": pieces,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 130)
    console.print(table(pieces))
    console.print(f"{found['cases']} cases in {found['seconds']:.0f} s, {problems} problems; {OUT}")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
