"""Names and reasons from outside are shown as what they are: no terminal, page or report obeys."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from rich.console import Console

from mlplatform.commands.terminal import output
from mlplatform.commands.terminal.markdown import print_markdown
from mlplatform.learning.features.rows import check_printable
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.model.folders import model_folder, parse, personal_fields
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.model.rules import parse_reasons, parse_rules
from mlplatform.observing.page.rendering import templates
from mlplatform.rollouts.drift.report import summary as drift_summary
from mlplatform.rollouts.passes.summary import question
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, PlatformError, Unavailable
from mlplatform.runtime.telemetry.logs import JsonLines

ESC, BEL = "\x1b", "\x07"
HOSTILE = [
    pytest.param(f"ana{ESC}[2J{ESC}[31mred", id="escape sequences"),
    pytest.param(f"{ESC}]8;;https://example.org{BEL}ana{ESC}]8;;{BEL}", id="a terminal's link"),
    pytest.param("approved\rrejected", id="a carriage return"),
    pytest.param("ana\u202eanb\u2066x", id="bidi overrides"),
    pytest.param("\x9b2Jana", id="an 8-bit control sequence"),
    pytest.param("[red]ana[/] [link=https://example.org]x[/link] [blink]", id="rich's markup"),
    pytest.param("<script>alert(1)</script><img src=x>", id="HTML"),
    pytest.param("a | b | **c** | `d` [x](https://example.org)", id="Markdown"),
]
STEERING = frozenset("\x1b\x07\r\x9b\u202e\u2066\x08\x00")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What reaches a person's terminal, rich's own colours left out."""
    written = io.StringIO()
    console = Console(
        file=written, force_terminal=True, color_system=None, width=120, highlight=False
    )
    monkeypatch.setattr(output, "OUT", console)
    monkeypatch.setattr(output, "ERR", console)
    return written


def plain(terminal: io.StringIO) -> str:
    """Without what rich itself writes for bold and dim."""
    text = terminal.getvalue()
    for own in ("\x1b[1m", "\x1b[1;4m", "\x1b[0m", "\x1b[2m", "\x1b[3m", "\x1b[22m"):
        text = text.replace(own, "")
    return text


SHOWS: dict[str, Callable[[str], None]] = {
    "an error": lambda text: output.print_error(PlatformError(text)),
    "fields": lambda text: output.print_fields({"by": text, text[:5]: "x"}),
    "a table": lambda text: output.print_table(("by", "why"), [(text, text)], title=text),
    "sentences below rows": lambda text: output.print_table(
        ("by", "why"), [("x" * 100, text)], prose="why"
    ),
    "a line": output.print_line,
    "a heading": output.print_heading,
    "a report": lambda text: output.print_markdown(f"# {text}\n\n{text}\n\n| {text} |\n"),
}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("show", SHOWS.values(), ids=SHOWS.keys())
def test_a_terminal_gets_no_command(
    terminal: io.StringIO, show: Callable[[str], None], text: str
) -> None:
    show(text)
    assert not STEERING.intersection(plain(terminal)), ascii(terminal.getvalue())


def test_markup_in_a_name_is_text(terminal: io.StringIO) -> None:
    output.print_fields({"by": "[red]ana[/]"})
    output.print_table(("by",), [("[link=https://example.org]x[/link]",)], title="[bold]t[/]")
    output.print_error(PlatformError("[blink]no[/]"))
    for text in ("[red]ana[/]", "[link=https://example.org]x[/link]", "[bold]t[/]", "[blink]no[/]"):
        assert text in plain(terminal)


def test_an_error_cannot_look_like_two(terminal: io.StringIO) -> None:
    try:
        raise PlatformError("no\nerror: approved") from Unavailable("x\nerror: all is well")
    except PlatformError as error:
        output.print_error(error)
    assert [line for line in plain(terminal).splitlines() if line.startswith("error:")] == [
        "error: no"
    ]


def test_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"by": f"ana{ESC}[2J\u202e"})
    written = capsys.readouterr().out
    assert not STEERING.intersection(written)
    assert json.loads(written) == {"by": f"ana{ESC}[2J\u202e"}


def evidence(text: str) -> dict[str, Any]:
    report = GateReport("fraud", text, text, (GateResult("quality", "failed", 0.0, 0.0, text),))
    return {
        "model": "fraud",
        "version": 2,
        "author": text,
        "bundle": text,
        "validation": to_dict(report),
        "gates": {text: {"verdict": "HEALTHY", "reason": text}},
        "arms": {"champion": {}, "challenger": {}},
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_evidence_and_reports_show_names_and_reasons_as_they_are(text: str) -> None:
    report = GateReport("fraud", "b" * 64, "", (GateResult("quality", "failed", 0.0, 0.0, text),))
    pages = (
        question("fraud-r1", evidence(text)),
        to_markdown(to_dict(report)),
        drift_summary("fraud", 1, [], "steady"),
    )
    for page in pages:
        assert not STEERING.intersection(page)
        for active in ("<script", "<img", "[x](", " | b |"):
            assert active not in page.replace(f"\\{active[0]}", ""), page


@pytest.mark.parametrize("width", [60, 200])
def test_a_report_on_a_terminal_is_read_without_its_escapes(width: int) -> None:
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        print_markdown(console, "| by | reason |\n|---|---|\n| a\\|b | \\*\\*no\\*\\* |\n")
    text = " ".join(captured.get().split())
    assert "a|b" in text
    assert "**no**" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_shows_no_markup_and_hides_nothing(text: str) -> None:
    made = templates().from_string("<p title='{{ name }}'>{{ name }}</p>").render(name=text)
    assert not STEERING.intersection(made)
    assert "<script" not in made
    assert "<img" not in made


@pytest.mark.parametrize("text", HOSTILE)
def test_a_log_line_is_the_same_json_and_steers_nothing(text: str) -> None:
    record = logging.LogRecord("mlplatform", logging.INFO, "", 0, "by %s, é", (text,), None)
    line = JsonLines("gateway", personal_fields()).format(record)
    assert line.isprintable()
    assert "é" in line
    assert json.loads(line)["message"] == f"by {text}, é"


def test_the_owner_of_a_model_is_text() -> None:
    source = (model_folder("fraud") / "model.yaml").read_text()
    owner = "payments-ml@bank.example"
    kept = parse(source.replace(owner, "  Jose\u0301 "), "model.yaml")
    assert kept.owner == "José"
    for wrong in ('"a\\e[2J"', '"a\\u202eb"', '"\\u0430na"'):
        with pytest.raises(ConfigInvalid, match="owner"):
            parse(source.replace(owner, wrong), "model.yaml")


def test_what_customers_are_told_is_text() -> None:
    rules = (
        "- {code: A, text: \"a\\u200bb\", when: [{input: x, op: '>', value: 1}], decision: review}"
    )
    with pytest.raises(ConfigInvalid, match=r"U\+200B"):
        parse_rules(rules, source="rules.yaml", inputs=["x"], decisions=EARLIER.names)
    reasons = 'x: {code: A, customer: "a\\e[2J", analyst: b}'
    with pytest.raises(ConfigInvalid, match=r"U\+001B"):
        parse_reasons(reasons, source="reasons.yaml", inputs=["x"])


def test_ids_of_a_history_are_printed_as_they_are() -> None:
    check_printable(pa.chunked_array([["a-1", "é"]]), "request_id", "history")
    with pytest.raises(InputInvalid, match="row 1"):
        check_printable(pa.chunked_array([["a-1", "a\x1b[2J"]]), "request_id", "history")


def test_a_refused_text_is_told_of_in_a_way_that_steers_nothing() -> None:
    with pytest.raises(InputInvalid) as refused:
        check_printable(pa.chunked_array([["a\u202eb"]]), "request_id", "history")
    assert not STEERING.intersection(str(refused.value))
    assert msgspec.json.encode(str(refused.value))
