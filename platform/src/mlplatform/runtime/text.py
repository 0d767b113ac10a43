"""The text that is accepted from people, and how text from outside is shown.

A name of two scripts can look like another person's, and an invisible character can make two names
out of one: such text is refused where it comes in. Not all that is shown came in that way (a log
line of another program, a file of a candidate), so it is made harmless where it is printed as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby
from typing import Final

from mlplatform.runtime.errors import InputInvalid

SCRIPTS: Final = frozenset(
    {
        *("ARABIC", "ARMENIAN", "BENGALI", "BOPOMOFO", "CYRILLIC", "DEVANAGARI", "ETHIOPIC"),
        *("GEORGIAN", "GREEK", "GUJARATI", "GURMUKHI", "HAN", "HANGUL", "HEBREW", "HIRAGANA"),
        *("KANNADA", "KATAKANA", "KHMER", "LAO", "LATIN", "MALAYALAM", "MYANMAR", "ORIYA"),
        *("SINHALA", "TAMIL", "TELUGU", "THAANA", "THAI", "TIBETAN"),
    }
)
"""Scripts that people write in today."""

TOGETHER: Final = (
    frozenset({"LATIN", "HAN", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "HAN", "BOPOMOFO"}),
    frozenset({"LATIN", "HAN", "HANGUL"}),
)
"""Scripts that one language mixes in one word. Source: Unicode UTS #39, 5.2, Highly Restrictive."""

MOST_MARKS: Final = 4
"""Combining marks on one letter. Source: Unicode UTS #39, 5.4, Optional Detection."""

_HAN: Final = ("CJK ", "IDEOGRAPHIC ")
_OF_NO_SCRIPT: Final = ("COMBINING ", "MODIFIER LETTER ", "KATAKANA-HIRAGANA ")
_MARKUP: Final = re.compile(r"[\\`*_\[\]<>|~&@]|:(?=//)|(?<=www)\.|^[#+=-]")
_NUMBERED: Final = re.compile(r"^(\d+)([.)])")
BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
"""Letters, marks and signs that show nothing (Default_Ignorable_Code_Point, and the empty Braille
cell): their category does not tell them from letters that show something."""
_REFUSED: Final = {
    "Cc": "a control character",
    "Cf": "an invisible character",
    "Cn": "no character of this Unicode version",
    "Co": "a private character",
    "Cs": "half a character",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
_LINES: Final = frozenset("\n\t")
_UNITS: Final = frozenset({"μs", "μm", "μg", "μl", "μW", "μV", "μA", "kΩ", "MΩ"})
"""Words of two scripts that occur in everybody's reasons: NFKC turns the micro sign into a Greek
mu."""

_CAPITALS: Final = str.maketrans("АВЕЅІЈКМНОРСТХҮԌΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABESIJKMHOPCTXYGABEZHIKMNOPTYX")
_SMALL: Final = str.maketrans(
    "авесԁһіјкӏмнорԛѕтѵԝхуүгհոսօցαεηικνορτυχωγϳıɑɡɩʋ01",
    "abecdhijklmhopqstvwxyyrhnuogaeniknoptuxwyjiagiuol",
)
"""Letters of other scripts, and rare Latin ones, that are drawn as a Latin letter is.
Source: Unicode UTS #39, confusables.txt, what has one ASCII letter as prototype."""

_ALPHABETS: Final = {
    "LATIN": re.compile(
        "[A-Za-zÀ-\u0137\u0139-\u0183\u0186-\u018c\u018e-\u0194\u0196-\u019a\u019d-\u01a5\u01a9"
        "\u01ab-\u01b9\u01cd-\u01f5\u01f8-\u021b\u021e-\u0221\u0224-\u0236\u023a-\u0240\u0243\u0244"
        "\u0246-\u024fɓɔɖɗəɛɣɨɩɲʃʉʊʋʒ\u1e00-\u1e99\u1e9e\u1ea0-\u1ef9]"
    ),
    "GREEK": re.compile("[\u0386-\u03ce\u1f00-\u1fff]"),
    "CYRILLIC": re.compile("[\u0400-\u045f\u048a-\u052f]"),
}
"""The letters of living alphabets, where a script has others that are drawn like them: no small
capitals, phonetic, medieval or click letters.
Source: Unicode UTS #39, 3.1, General Security Profile, by block, as Unicode's data for it is not in
the standard library."""
_IN_NAMES: Final = frozenset("·’‐֊׳״・")
"""Signs beside ASCII's, letters and digits. Source: Unicode UAX #31, tables 3a and 3b."""


def cleaned(field: str, text: str, *, lines: bool = False) -> str:
    """The text as it is kept: normalised to NFKC, without the white space around it.

    Words of different scripts may stand side by side; one word may not mix them.

    Args:
        field: the name of the text for its writer: `--reason`, `model.yaml: owner`.
        lines: whether it may have line breaks and tabs.

    Raises:
        InputInvalid: the text has an invisible character or one that controls a terminal, too many
            combining marks, or a word of two scripts. The message gives the character's code point.
    """
    normal = _visible(field, text, _LINES if lines else frozenset())
    for letters, word in groupby(normal, key=_is_of_word):
        if letters and (mixed := "".join(word)) not in _UNITS:
            _one_script(field, mixed, "a word")
    return normal


def name(field: str, text: str) -> str:
    """A name as it is kept: `cleaned`, with letters of one script and digits of one kind.

    Raises:
        InputInvalid: for the same reasons as in `cleaned`, or because the name is empty, mixes
            scripts, is written in a script that nobody uses today, or holds a symbol or a letter of
            no living alphabet.
    """
    normal = _visible(field, text, frozenset())
    if not normal:
        raise InputInvalid(field, None, "is empty; wanted: a name")
    _one_script(field, normal, "a name")
    for character in normal:
        if not _is_of_names(character):
            wanted = "letters of an alphabet that people write in"
            raise InputInvalid(field, None, f"holds {_code_point(character)}; wanted: {wanted}")
    zeros = {ord(c) - unicodedata.decimal(c) for c in normal if unicodedata.category(c) == "Nd"}
    if len(zeros) > 1:
        raise InputInvalid(field, None, "mixes digits of two scripts; wanted: digits of one")
    return normal


def look_alike(text: str) -> str:
    """A key that is equal for names which a reader takes for one another, in any case of letters
    and with any signs between them.

    It is only to compare by, never to show or store: a Cyrillic and a Latin a give the same.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    lower = decomposed.translate(_CAPITALS).casefold().translate(_SMALL)
    bases = (_base(c) for c in lower if c.isalnum())
    plain = "".join(bases).translate(_SMALL)
    return plain.replace("rn", "m").replace("vv", "w").replace("i", "l")  # a capital I is an l


def shown(text: str, *, lines: bool = False) -> str:
    r"""The text with each character that a terminal or a log takes for a command written out.

    An escape becomes `\x1b`, a bidi override `\u202e`. A backslash stays one: this is for reading,
    not for reading back.

    Args:
        lines: whether line breaks and tabs stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if (c.isprintable() and not BLANK.match(c)) or (lines and c in _LINES) else _written(c)
        for c in text
    )


def markdown(text: str) -> str:
    """The text as a part of a line of Markdown that shows it and does nothing else.

    The result makes no markup, links, HTML, table cells or line breaks.
    """
    return _NUMBERED.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", shown(text).strip()))


def _visible(field: str, text: str, allowed: frozenset[str]) -> str:
    normal = unicodedata.normalize("NFKC", text).strip()
    if normal.isascii() and normal.isprintable():
        return normal
    marks = 0
    for character in normal:
        category = unicodedata.category(character)
        if character not in allowed and (why := _refused(character, category)):
            raise InputInvalid(field, None, f"holds {_code_point(character)}, {why}")
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if marks > MOST_MARKS:
            raise InputInvalid(field, None, f"has more than {MOST_MARKS} marks on one letter")
    return normal


def _refused(character: str, category: str) -> str | None:
    if BLANK.match(character):
        return "an invisible character"
    if category == "Zs" and character != " ":
        return "an unusual space"
    return _REFUSED.get(category)


def _one_script(field: str, text: str, what: str) -> None:
    scripts = {script for c in text if (script := _script(c)) is not None}
    if strange := scripts - SCRIPTS:
        problem = (
            f"{shown(text)!r} has a letter of {min(strange)}, which no name here is written in"
        )
        raise InputInvalid(field, None, problem)
    if len(scripts) > 1 and not any(scripts <= together for together in TOGETHER):
        problem = f"{_spelled(text)} is {what} of {_listed(scripts)} letters, not of one script"
        raise InputInvalid(field, None, problem)


def _script(character: str) -> str | None:
    """The script of a letter or of a mark that belongs to one; None for what all scripts share.

    The standard library has no Script property. The name of each letter starts with it: the Unicode
    Standard (4.8, Name) never changes a name, and names letters by script.
    """
    if character.isascii():
        return "LATIN" if character.isalpha() else None
    if unicodedata.category(character)[0] not in "LM":
        return None
    name = unicodedata.name(character, "UNNAMED")
    if name.startswith(_OF_NO_SCRIPT):
        return None
    return "HAN" if name.startswith(_HAN) else name.partition(" ")[0]


def _is_of_names(character: str) -> bool:
    if character.isascii() or character in _IN_NAMES:
        return True
    if unicodedata.category(character)[0] not in "LM":
        return unicodedata.category(character) == "Nd"
    alphabet = _ALPHABETS.get(_script(character) or "")
    return alphabet is None or alphabet.fullmatch(character) is not None


def _base(character: str) -> str:
    """A letter without what is drawn through or at it; the small letter of a small capital.

    The decomposition tells that of accents alone; the name, which never changes, of all.
    """
    name, _, drawn = unicodedata.name(character, "").partition(" WITH ")
    plain = name.replace("LETTER SMALL CAPITAL ", "SMALL LETTER ")
    if not drawn and plain == name:
        return character
    try:
        return unicodedata.lookup(plain)
    except KeyError:
        return character  # a letter without a plain form


def _is_of_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def _spelled(text: str) -> str:
    """The text, and by code point the letters of it that are not ASCII, the first few."""
    others = [_code_point(c) for c in dict.fromkeys(text) if not c.isascii() and _script(c)]
    return f"{shown(text)!r} ({', '.join(others[:3])})"


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(n.title() for n in names))


def _written(character: str) -> str:
    return ascii(character)[1:-1] if not character.isascii() else f"\\x{ord(character):02x}"
