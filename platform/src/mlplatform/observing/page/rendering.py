"""One set of templates for the page, the evidence and the demo's report, with every value
escaped."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mlplatform.model.oip import reason_words
from mlplatform.observing.page.people.reader import READER
from mlplatform.observing.page.pictures.scales import NONE, probability
from mlplatform.runtime.text import shown
from mlplatform.runtime.times import duration_text, minute_text, second_text, text_of_any

STYLES: Final = ("style.css", "people/people.css")
SCRIPT: Final = "live.js"


def render(template: str, **shown: Any) -> str:
    """The page that a template makes from these values, for its reader.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not among the values.
    """
    return templates().get_template(template).render(reader=READER.get(), **shown)


@cache
def templates() -> Environment:
    """The templates of this package. Every value is escaped, and a missing one is an error."""
    made = Environment(
        loader=PackageLoader("mlplatform.observing.page"),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        words=words, moment=moment, number=number, percent=percent, pretty=pretty, short=short,
        probability=probability, second=second, coded=coded, age=age, size=size,
        counted=counted, command=command,
    )  # fmt: skip
    return made


def compile_templates() -> None:
    """Compile every template, of which a process's first use of it would otherwise wait."""
    for name in templates().list_templates(extensions=["html"]):
        templates().get_template(name)


def _harmless(value: object) -> object:
    """The value; in a text, characters that reorder or hide text in a browser are written as
    codes."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return shown(str(value), lines=True) if is_text else value


@cache
def style() -> str:
    """The style sheet."""
    files = PackageLoader("mlplatform.observing.page")
    return "\n".join(files.get_source(templates(), name)[0] for name in STYLES)


@cache
def script() -> str:
    """The script that refreshes a view in place."""
    return PackageLoader("mlplatform.observing.page").get_source(templates(), SCRIPT)[0]


def words(name: str) -> str:
    """A name of the code in words: "awaiting approval", and of a reason: "switched off"."""
    return reason_words(name)


def coded(sentence: str) -> Markup:
    """A sentence in which commands between backticks look like commands."""
    text = shown(sentence, lines=True)
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    made = (
        Markup("<code>{}</code>").format(command(part)) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )
    return Markup().join(made)


def command(text: str) -> Markup:
    """A command that is not broken at the hyphens of an option."""
    made = (
        Markup('<span class="word">{}</span>').format(word) if "-" in word else escape(word)
        for word in shown(text).split(" ")
    )
    return Markup(" ").join(made)


def moment(ms: int | None) -> str:
    """Epoch milliseconds as a minute in UTC."""
    return NONE if ms is None else text_of_any(ms, minute_text)


def second(ms: int) -> str:
    """Epoch milliseconds as a second in UTC."""
    return text_of_any(ms, second_text)


def counted(count: int, noun: str, many: str = "") -> str:
    """A number of things: "1 record", "1,024 records"; `many` where it is not the noun and an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {many or noun + 's'}"


def age(ms: int) -> str:
    """Milliseconds as a duration; those of a time to come as 0 s."""
    return duration_text(max(0, ms) / 1000)


def size(count: int) -> str:
    """Bytes in the largest unit of which there are at least ten: "25 GB", "792 bytes"."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    found = next(((length, unit) for length, unit in units if count >= 10 * length), None)
    return f"{count:,} bytes" if found is None else f"{count / found[0]:,.0f} {found[1]}"


def number(value: float | None) -> str:
    """A count with separators, or a measure with four significant digits."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def percent(share: float | None) -> str:
    """A share (0-1), in percent."""
    return NONE if share is None else f"{100 * share:.2f} %"


def short(digest: str | None) -> str:
    """The first digits of a digest, enough to tell two apart."""
    return NONE if not digest else digest[:12]


def pretty(value: object) -> str:
    """JSON over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
