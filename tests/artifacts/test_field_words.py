"""The platform speaks of requests, positives and hidden outcomes: a field's words are a model's."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "platform" / "src" / "mlplatform"
WORDS: Final = re.compile("fraud|payment|approve|decline", re.IGNORECASE)
ALLOWED: Final = (
    (
        "commands/*",
        r"Example: mlplatform .*|for example: .*|mlplatform keys create .*",
        "an example is typed as it stands, so it names the model that comes with the platform",
    ),
    (
        "commands/terminal/arguments.py",
        r"\w*approver|Approver",
        "the person who approves a rollout",
    ),
    ("commands/keys.py", "approve", "what a key may do: approve a rollout"),
    ("commands/rollouts.py", r"approve[rd]?|Approver", "a person's act in a rollout"),
    ("commands/first_hour/quickstart.py", r"_?approves?|APPROVER|approver", "the same"),
    ("commands/first_hour/quickstart.py", "payments_per_day", "of the model's own generator"),
    ("observing/page/people/*", r"\w*[Aa]pprove[rd]?", "the same act, on the page"),
    ("observing/page/queries/rollouts.py", "approve[rd]?", "the same act, in a rollout's headline"),
    ("observing/page/templates/people/*", "approved?", "the same"),
    ("operations/actions/rollouts.py", r"\w*[Aa]pprover?", "the same"),
    ("operations/card/*", "approver", "the person, on a model card"),
    ("operations/prefect_*", r'"approve\b|\.approver', "the same act, by a form of Prefect"),
    ("rollouts/*", r"\w*[Aa]pprove[rds]?\w*|APPROVED", "the same act, in journal, plan and events"),
    ("scoring/admission/*", r"\w*approves?", "who may do it"),
    (
        "model/policies/decision_scale.py",
        ".*",
        "what model.yaml and bundles said before outcomes had names",
    ),
    ("model/features/transforms.py", "Source: Fraud Detection Handbook", "a book's title"),
    (
        "learning/validation/report_entries.py",
        '"payments"|payments[.]"""',
        "a key of reports of earlier releases, which registries hold",
    ),
    (
        "rollouts/journal/evidence.py",
        '"(payments|frauds|fraud)"',
        "names of gates' values of earlier releases, which journals hold",
    ),
)
"""Files, what stands in a line of them, and why."""


def lines() -> list[tuple[str, int, str]]:
    """Path below the package, number and text of each line that people write."""
    files = (p for p in sorted(PACKAGE.rglob("*")) if p.is_file() and p.suffix != ".pyc")
    return [
        (path.relative_to(PACKAGE).as_posix(), number, line)
        for path in files
        if "_pb2" not in path.name
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
    ]


def left(name: str, line: str) -> str:
    """A line without what is allowed in that file."""
    for files, allowed, _ in ALLOWED:
        if fnmatch(name, files):
            line = re.sub(allowed, "", line)
    return line


def test_no_field_s_word_stands_in_the_platform_without_a_reason() -> None:
    found = [f"{n}:{at}: {line.strip()}" for n, at, line in lines() if WORDS.search(left(n, line))]
    assert found == []


def test_every_reason_is_still_needed() -> None:
    held = [(name, line) for name, _, line in lines() if WORDS.search(line)]
    unused = [
        (files, allowed)
        for files, allowed, _ in ALLOWED
        if not any(fnmatch(n, files) and WORDS.search(left_by(allowed, t)) for n, t in held)
    ]
    assert unused == []


def left_by(allowed: str, line: str) -> str:
    """What of a line that pattern takes away."""
    return " ".join(m[0] for m in re.finditer(allowed, line))


def test_what_is_looked_for_is_found() -> None:
    assert WORDS.search(left("learning/features/rows.py", "# declined payments"))
    assert WORDS.search(left("rollouts/passes/next_step.py", "approved payments"))
    assert not WORDS.search(left("rollouts/passes/next_step.py", "approved requests"))
