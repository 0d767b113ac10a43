"""A few mutated files of each kind, always the same ones; the drill runs as many as there is time
for."""

from __future__ import annotations

import pytest
from tests.drills import fuzz_candidates as drill
from tests.drills.fuzz_candidates import Findings


@pytest.mark.parametrize(
    ("fuzz", "count"),
    [
        pytest.param(drill.fuzz_onnx, 40, id="ONNX"),
        pytest.param(drill.fuzz_parquet, 40, id="Parquet"),
        pytest.param(drill.fuzz_yaml, 12, id="YAML"),
    ],
)
def test_mutated_files_meet_declared_errors_alone(fuzz, count):
    findings = Findings()
    fuzz(findings, 13, range(count))
    assert (findings.wrong, findings.examples) == (0, [])
    assert sum(findings.cases.values()) == count


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        pytest.param("its process crashed (SIGSEGV)", "crashes", id="a crash"),
        pytest.param("it could not be worked on (KeyError)", "undeclared", id="another error"),
        pytest.param("no such file: /etc/passwd", "undeclared", id="a path"),
    ],
)
def test_the_drill_counts_what_is_wrong(text, counted):
    findings = Findings()
    findings.refused("onnx", 1, drill.ModelRefused(text))
    assert getattr(findings, counted) == 1
    assert findings.wrong == 1
