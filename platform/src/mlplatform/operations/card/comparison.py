"""Two versions side by side: every figure of their cards, and where they differ.

Made from the sections of the two cards, so whatever a card shows is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from mlplatform.operations.card.card import Card
from mlplatform.operations.card.sections import Section, sections
from mlplatform.runtime.errors import InputInvalid

ABSENT: Final = "not there"
SAME_FOR_BOTH: Final = ("How to compute it again",)
"""Sections that name commands, and no figure of a version."""
OF_TIMES: Final = ("event time",)
"""Heads of the first column of tables that are lists of events, which have nothing in common."""
STATED: Final = "stated"


class ComparedFigure(msgspec.Struct, frozen=True):
    """One figure of both cards, as text; `ABSENT` where only the other card has it."""

    name: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        return self.first != self.second

    @property
    def is_sentence(self) -> bool:
        """Whether it is a sentence of a card, which a card has or has not, and no figure."""
        return STATED in (self.first, self.second)


class ComparedSection(msgspec.Struct, frozen=True):
    """A section of the cards, in the order of the first card."""

    title: str
    figures: tuple[ComparedFigure, ...]

    @property
    def differing(self) -> tuple[ComparedFigure, ...]:
        return tuple(figure for figure in self.figures if figure.differs)

    @property
    def changed(self) -> tuple[ComparedFigure, ...]:
        """The figures that differ, without sentences."""
        return tuple(figure for figure in self.differing if not figure.is_sentence)

    @property
    def only_first(self) -> tuple[str, ...]:
        """The sentences that only the first card has."""
        return tuple(f.name for f in self.differing if f.first == STATED)

    @property
    def only_second(self) -> tuple[str, ...]:
        """The sentences that only the second card has."""
        return tuple(f.name for f in self.differing if f.second == STATED)

    @property
    def equal(self) -> tuple[ComparedFigure, ...]:
        return tuple(figure for figure in self.figures if not figure.differs)


class Comparison(msgspec.Struct, frozen=True):
    """Two versions of a model, side by side.

    Args:
        notes: sentences about what may be compared, and what may not.
    """

    model: str
    first: int
    second: int
    notes: tuple[str, ...]
    sections: tuple[ComparedSection, ...]

    @property
    def differing(self) -> tuple[ComparedSection, ...]:
        """The sections in which anything differs."""
        return tuple(section for section in self.sections if section.differing)

    @property
    def equal(self) -> tuple[ComparedSection, ...]:
        """The sections in which nothing differs."""
        return tuple(section for section in self.sections if not section.differing)


def compare(first: Card, second: Card) -> Comparison:
    """The comparison of two versions of one model.

    Raises:
        InputInvalid: the two are one version.
    """
    numbers = first.identity.version, second.identity.version
    if numbers[0] == numbers[1]:
        wanted = f"it is version {numbers[0]} twice; wanted: two versions"
        raise InputInvalid(f"comparison of {first.identity.model}", None, wanted)
    made = [dict(_figures(card)) for card in (first, second)]
    titles = list(dict.fromkeys(title for one in made for title in one))
    return Comparison(
        first.identity.model,
        *numbers,
        _notes(first, second),
        tuple(_together(title, made[0].get(title, {}), made[1].get(title, {})) for title in titles),
    )


def plain(found: Comparison) -> dict[str, object]:
    """The comparison as one value for `--json`; each figure says whether it differs."""
    return {
        "model": found.model,
        "versions": [found.first, found.second],
        "notes": list(found.notes),
        "sections": [
            {
                "title": section.title,
                "figures": [
                    {"name": f.name, "first": f.first, "second": f.second, "differs": f.differs}
                    for f in section.figures
                ],
            }
            for section in found.sections
        ],
    }


def _notes(first: Card, second: Card) -> tuple[str, ...]:
    found = []
    days = [(card.data.gates_from_ms, card.data.to_ms) for card in (first, second)]
    if days[0] != days[1]:
        found.append(
            "The two were measured on different days: their measures don't show which is better."
            " A rollout, and `mlplatform replay`, compare versions on the same requests."
        )
    if first.data.digest == second.data.digest:
        found.append("The two were made from the same data.")
    if first.identity.bundle == second.identity.bundle:
        found.append("The two are the same bundle.")
    return tuple(found)


def _figures(card: Card) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Title of each section → its figures; rollouts, which have ids of their own, are numbered."""
    rollouts = 0
    for section in sections(card):
        title = section.title
        if title in SAME_FOR_BOTH:
            continue
        if title.startswith("Rollout "):
            rollouts += 1
            title = f"Rollout {rollouts} of the version"
        yield title, _figures_of(section)


def _figures_of(section: Section) -> dict[str, str]:
    found = dict(section.fields)
    found |= {line: STATED for line in section.lines}
    seen: Counter[str] = Counter()
    for table in section.tables:
        if table.head[0] in OF_TIMES:
            continue
        for row in table.rows:
            for head, cell in zip(table.head[1:], row[1:], strict=True):
                name = f"{row[0]}: {head}"
                seen[name] += 1
                found[name if seen[name] == 1 else f"{name} ({seen[name]})"] = cell
    return found


def _together(title: str, first: Mapping[str, str], second: Mapping[str, str]) -> ComparedSection:
    names = list(dict.fromkeys([*first, *second]))
    return ComparedSection(
        title,
        tuple(
            ComparedFigure(name, first.get(name, ABSENT), second.get(name, ABSENT))
            for name in names
        ),
    )
