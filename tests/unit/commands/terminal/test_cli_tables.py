"""Tables and reports can be read at 80 columns and at 120: nothing is cut, nothing sticks out."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from mlplatform.commands.terminal.markdown import print_markdown
from mlplatform.commands.terminal.tables import print_table, wrapped
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.rollouts.passes.summary import to_markdown as evidence_page

REASON = (
    "shadow: 1500 customers compared; gates passed: alert_rate, decision_flips, errors, "
    "sample_ratio; waits for somebody who is not its author"
)
COLUMNS = ("rollout", "version", "phase", "since (event time)", "reason")
ROW = ("fraud-v2-1", 2, "awaiting_approval", "2026-06-01 00:00", REASON)
GATES = (
    GateResult("alert_share", "passed", 0.0123, 0.05, f"[0.01 to 0.02] {REASON}"),
    GateResult("quality", "failed", -0.0312, -0.02, f"average precision 0.512; {REASON}"),
)


def printed(width: int, show: object, *arguments: object, **options: object) -> str:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        show(console, *arguments, **options)  # type: ignore[operator]
    return capture.get()


def words(text: str) -> list[str]:
    """What is written, without lines and where they break."""
    return re.sub(r"[^\w.\[\];:-]+", " ", text).split()


@pytest.mark.parametrize("width", [80, 100, 110])
@pytest.mark.parametrize("rows", [[ROW], [ROW, ("x", 1, "shadow", "", "short")]])
def test_sentences_are_below_their_rows_where_there_is_no_room_beside_them(
    width: int, rows: list[tuple[object, ...]]
) -> None:
    shown = printed(width, print_table, COLUMNS, rows, prose="reason")
    lines = shown.splitlines()
    assert max(map(cell_len, lines)) <= width
    (first,) = [n for n, line in enumerate(lines) if line.startswith("fraud-v2-1")]
    assert lines[first].split() == ["fraud-v2-1", "2", "awaiting_approval", "2026-06-01", "00:00"]
    assert words(" ".join(lines[first + 1 : first + 3])) == words(REASON)


def test_a_table_with_room_stays_one() -> None:
    shown = printed(250, print_table, COLUMNS, [ROW], prose="reason", title="[under way]")
    (line,) = [line for line in shown.splitlines() if "fraud-v2-1" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [str(cell) for cell in ROW]


def test_where_not_even_names_have_room_a_row_is_a_list_of_its_cells() -> None:
    shown = printed(30, print_table, COLUMNS, [ROW, ROW], prose="reason", title="[under way]")
    lines = shown.splitlines()
    assert max(map(cell_len, lines)) <= 30
    assert lines[:3] == ["[under way]", "rollout: fraud-v2-1", "version: 2"]
    assert lines[3:6] == [
        "phase: awaiting_approval",
        "since (event time):",
        "    2026-06-01 00:00",
    ]
    assert words(shown).count("fraud-v2-1") == 2


WIDE = ("fraud-v12-1", "01a2b3c4-d5e6-7f80-9a0b-c1d2e3f4a5b6", "2026-06-01 00:00", "ana", "x" * 30)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_names_are_in_one_piece_at_any_width(width: int) -> None:
    columns = ("rollout", "decision", "when", "who", "digest")
    shown = printed(width, print_table, columns, [WIDE, WIDE])
    assert max(map(cell_len, shown.splitlines())) <= width
    for name in (*WIDE[:2], WIDE[4]):
        assert shown.count(name) == 2


@pytest.mark.parametrize("width", [80, 120])
def test_a_report_of_gates_is_no_markdown_any_more(width: int) -> None:
    report = GateReport(model="fraud", bundle="a" * 64, champion=None, gates=GATES)
    page = to_markdown(to_dict(report))
    shown = printed(width, print_markdown, page)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert not re.search(r"\*\*|`|##|---|\| ", shown)
    assert shown.splitlines()[0] == "A candidate for fraud did not pass validation"
    assert "[0.01 to 0.02]" in shown
    assert {"alerts.", "positives.", "0.512;", "sample_ratio;"} <= set(words(shown))


@pytest.mark.parametrize("width", [80, 120])
def test_evidence_of_a_rollout_is_a_page_of_tables(width: int) -> None:
    evidence = {
        "version": 2,
        "bundle": "b" * 64,
        "author": "ana",
        "alert_band": [0.01, 0.02],
        "gates": {"alerts": {"verdict": "HEALTHY", "reason": REASON}},
        "arms": {"champion": {"units": 1200, "requests": 4000}},
    }
    shown = printed(width, print_markdown, evidence_page("fraud-v2-1", evidence))
    assert max(map(cell_len, shown.splitlines())) <= width
    assert {"alerts.", "healthy:", "1", "200", "champion", "ana."} <= set(words(shown))
    assert "##" not in shown


def test_a_word_that_is_longer_than_a_line_can_be_copied() -> None:
    assert wrapped("in /a/very/long-path/to-a-file now", 10) == [
        "in",
        "/a/very/long-path/to-a-file",
        "now",
    ]


def test_a_heading_that_came_from_outside_is_text() -> None:
    """A replay has the outcomes of a bundle that somebody made as its columns."""
    console = Console(width=80, record=True, force_terminal=True, color_system=None)
    print_table(console, ("usual", "[link=x]high[/]", "hi\x1b]0;gh\u202e"), [("1", "2", "3")])
    printed = console.export_text()
    assert "[link=x]high[/]" in printed
    assert "\x1b]0;" not in printed
    assert "\u202e" not in printed
