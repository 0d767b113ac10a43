"""`python -m tests.drills.fuzz_candidates --seconds N --seed S`: mutated ONNX, Parquet and YAML.

Each goes through what takes it from a person: the confined process with its limits, and the readers
of documents. Wrong is what is not declared: another error than the platform's own, a reply that
tells paths, more memory than the limit, or an end of this process. A confined process that ends is
counted by its reason: it is there to end; a crash in a library is a finding all the same.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.support import hostile_models
from tests.support.mutations import changed_bytes, changed_model
from tests.support.onnx_bundles import sigmoid_model

from mlplatform.learning.features import parquet_files
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.learning.onnx.confined_model import LIMITS, ConfinedModel
from mlplatform.learning.onnx.onnx_limits import ModelRefused
from mlplatform.learning.onnx.onnx_work import _small_trees
from mlplatform.model import folders
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.model.rules import parse_reasons, parse_rules
from mlplatform.runtime.configuration.kinds import SHIPPED
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.sandbox.process import MOST_CHARACTERS
from mlplatform.runtime.units import MIB

REPORT = Path("build/drills/fuzz_candidates.json")
PARENT_MAY_GROW_BYTES = 512 * MIB
LIBRARIES_BYTES = 400 * MIB
"""What a confined process had before its limit counted, with some to spare."""
SLOW_S = 60.0
KEPT_FINDINGS = 20
PARQUET_AT_ONCE = 40
PATH = re.compile(r"/\w+/\w")
UNDECLARED = re.compile(r"could not be worked on \((\w+)\)")
CRASH = re.compile(r"crashed \((\w+)\)")
NUMBERS = {str(t): t for t in (pa.int8(), pa.int32(), pa.int64(), pa.float64())} | {
    str(t): t for t in (pa.timestamp("us"), pa.timestamp("ns"))
}


@dataclass
class Findings:
    """What the run came to so far."""

    cases: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    over_memory: int = 0
    undeclared: int = 0
    peak_bytes: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return self.crashes + self.over_memory + self.undeclared

    def example(self, kind: str, number: int, what: str) -> None:
        if len(self.examples) < KEPT_FINDINGS:
            self.examples.append({"kind": kind, "case": number, "what": what[:500]})

    def refused(self, kind: str, number: int, error: PlatformError) -> None:
        """A declared refusal, whose text may not tell what it should not."""
        text = str(error)
        crash, undeclared = CRASH.search(text), UNDECLARED.search(text)
        leaks = PATH.search(text) or not text.isprintable() or len(text) > MOST_CHARACTERS + 100
        self.outcomes[f"{kind}: refused"] += 1
        if crash:
            self.crashes += 1
        if undeclared or (leaks and kind != "yaml"):
            self.undeclared += 1
        if crash or undeclared or (leaks and kind != "yaml"):
            self.example(kind, number, text)

    def raised(self, kind: str, number: int, error: Exception) -> None:
        self.undeclared += 1
        self.example(kind, number, f"{type(error).__name__}: {error}")

    def took(self, kind: str, number: int, seconds: float, peak_bytes: int, limit: int) -> None:
        self.peak_bytes = max(self.peak_bytes, peak_bytes)
        if peak_bytes > limit:
            self.over_memory += 1
            self.example(kind, number, f"{peak_bytes} bytes resident; the limit is {limit}")
        if seconds > SLOW_S:
            self.undeclared += 1
            self.example(kind, number, f"{seconds:.0f} s")


def fuzz_onnx(findings: Findings, seed: int, numbers: Sequence[int]) -> None:
    """Each model is loaded, scored, timed and explained as a brought one is, in one process after
    the other: as many models in each as it survives."""
    seeds = [
        sigmoid_model(width=1),
        _small_trees(),
        hostile_models.harmless(1).SerializeToString(),
        hostile_models.slow_products(64, 4, 1).SerializeToString(),
        *(make(width=1).SerializeToString() for make in hostile_models.HOSTILE.values()),
        hostile_models.reading("etc/passwd", 1).SerializeToString(),
    ]
    model: ConfinedModel | None = None
    for number in numbers:
        rng = Random(f"{seed}/onnx/{number}")
        change = rng.choice((changed_bytes, changed_model))
        content = change(rng.choice(seeds), seeds, rng)
        began = time.monotonic()
        try:
            if model is None:
                model = ConfinedModel(_small_trees(), inputs=1)
            _use(model, content)
            findings.outcomes["onnx: taken"] += 1
        except ModelRefused as error:
            findings.refused("onnx", number, error)
        except Exception as error:  # noqa: BLE001 -- what is looked for
            findings.raised("onnx", number, error)
        findings.cases["onnx"] += 1
        limit = LIBRARIES_BYTES + LIMITS.memory_bytes
        if model is not None:
            findings.took(
                "onnx", number, time.monotonic() - began, _peak_bytes(model.sandbox.pid), limit
            )
            if not model.sandbox.is_alive:
                findings.outcomes["onnx: ended its process"] += 1
                model = None
    if model is not None:
        model.close()


def _use(model: ConfinedModel, content: bytes) -> None:
    """What `candidate_from_onnx` asks of a model."""
    model.load(content, inputs=1)
    rows = np.array([[0.0], [1.5], [np.nan]] * 3, np.float32)
    model.scores(rows)
    model.latencies_ms(rows, calls=3, budget_s=1)
    model.explained(rows, rows)


def fuzz_parquet(findings: Findings, seed: int, numbers: Sequence[int]) -> None:
    """Each file's columns are asked for and read, some files by one process."""
    seeds = list(_parquet_seeds())
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(numbers), PARQUET_AT_ONCE):
            some = numbers[start : start + PARQUET_AT_ONCE]
            paths = []
            for number in some:
                rng = Random(f"{seed}/parquet/{number}")
                content = changed_bytes(rng.choice(seeds), seeds, rng)
                paths.append(Path(folder) / f"{number}.parquet")
                paths[-1].write_bytes(content or b"x")
            while some:
                done = _read_some(findings, some, paths)
                some, paths = some[done:], paths[done:]


def _read_some(findings: Findings, numbers: Sequence[int], paths: Sequence[Path]) -> int:
    """How many were read before the process ended, or all."""
    limit = LIBRARIES_BYTES + parquet_files.LIMITS.memory_bytes
    with ParquetFiles(paths) as files:
        for position, number in enumerate(numbers):
            began = time.monotonic()
            try:
                types = files.types(position)
                files.read(position, {n: NUMBERS[t] for n, t in types.items() if t in NUMBERS})
                findings.outcomes["parquet: taken"] += 1
            except PlatformError as error:
                findings.refused("parquet", number, error)
            except Exception as error:  # noqa: BLE001 -- what is looked for
                findings.raised("parquet", number, error)
            findings.cases["parquet"] += 1
            seconds = time.monotonic() - began
            findings.took("parquet", number, seconds, _peak_bytes(files.sandbox.pid), limit)
            if not files.sandbox.is_alive:
                findings.outcomes["parquet: ended its process"] += 1
                return position + 1
    return len(numbers)


def _parquet_seeds() -> Iterator[bytes]:
    numbers = np.arange(300)
    table = pa.table({
        "TRANSACTION_ID": pa.array(numbers),
        "TX_DATETIME": pa.array(numbers, pa.timestamp("us")),
        "TX_AMOUNT": pa.array(np.where(numbers % 7, numbers / 3, np.nan), from_pandas=True),
        "TX_FRAUD": pa.array((numbers % 2).astype(np.int8)),
    })  # fmt: skip
    for how in (
        {"compression": "none"},
        {"compression": "snappy"},
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "gzip", "row_group_size": 50, "data_page_version": "2.0"},
        {"use_dictionary": False, "column_encoding": "DELTA_BINARY_PACKED"},
        {"compression": "lz4", "use_byte_stream_split": ["TX_AMOUNT"], "use_dictionary": False},
    ):
        sink = io.BytesIO()
        part = table
        if "column_encoding" in how:
            part = table.select(["TRANSACTION_ID", "TX_DATETIME"])
        pq.write_table(part, sink, **how)
        yield sink.getvalue()


def fuzz_yaml(findings: Findings, seed: int, numbers: Sequence[int]) -> None:
    """Each text is read as a model.yaml, as rules and as reasons."""
    folder = SHIPPED / "fraud"
    seeds = [folder.joinpath(n).read_bytes() for n in ("model.yaml", "rules.yaml", "reasons.yaml")]
    seeds += [b"a: &a [*a, *a]\n", b"- - - - {a: [1, {b: !!binary x}]}\n", b"1: 2026-01-01\n"]
    inputs = ("amount", "hour")
    for number in numbers:
        rng = Random(f"{seed}/yaml/{number}")
        content = changed_bytes(rng.choice(seeds), seeds, rng)
        if rng.random() < 0.05:
            content = content[:64] + rng.choice((b"[", b"{a: ", b"- ", b"? ")) * 2000
        text = content.decode(errors="replace")
        began = time.monotonic()
        for read in (
            lambda t: folders.parse(t, "model.yaml"),
            lambda t: parse_rules(t, source="rules.yaml", inputs=inputs, decisions=EARLIER.names),
            lambda t: parse_reasons(t, source="reasons.yaml", inputs=inputs),
        ):
            try:
                read(text)
                findings.outcomes["yaml: taken"] += 1
            except PlatformError as error:
                findings.refused("yaml", number, error)
            except Exception as error:  # noqa: BLE001 -- what is looked for
                findings.raised("yaml", number, error)
        findings.cases["yaml"] += 1
        findings.took("yaml", number, time.monotonic() - began, 0, 1)


ROUNDS = ((fuzz_onnx, 40), (fuzz_parquet, 40), (fuzz_yaml, 40))


def run(seconds: float, seed: int) -> Findings:
    """Rounds of all kinds until the time is up."""
    findings, first, until_s = Findings(), 0, time.monotonic() + seconds
    grown_from = _resident_bytes()
    while time.monotonic() < until_s:
        for fuzz, count in ROUNDS:
            fuzz(findings, seed, range(first, first + count))
            if time.monotonic() >= until_s:
                break
        first += max(count for _, count in ROUNDS)
    if (grown := _resident_bytes() - grown_from) > PARENT_MAY_GROW_BYTES:
        findings.over_memory += 1
        findings.example("this process", first, f"it grew by {grown} bytes")
    return findings


def report(findings: Findings, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "cases": dict(findings.cases),
        "outcomes": dict(sorted(findings.outcomes.items())),
        "crashes": findings.crashes,
        "over_memory": findings.over_memory,
        "undeclared": findings.undeclared,
        "peak_mib": round(findings.peak_bytes / MIB),
        "examples": findings.examples,
    }


def _peak_bytes(pid: int) -> int:
    """The most that a process had resident; 0 once it has ended, or where no kernel tells it."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def _resident_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=REPORT)
    asked = parser.parse_args()
    findings = run(asked.seconds, asked.seed)
    told = json.dumps(report(findings, asked.seed), indent=2)
    asked.report.parent.mkdir(parents=True, exist_ok=True)
    asked.report.write_text(told + "\n")
    print(told)
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
