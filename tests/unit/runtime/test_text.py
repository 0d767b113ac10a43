"""What a person wrote is kept in one form, or refused; what is shown steers nothing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.text import cleaned, look_alike, markdown, name, shown

PEOPLE = ("ana", "José Núñez", "O'Neill", "Иванов", "山田タロウ", "김철수", "Ζωή", "נועה", "ʻOkina")


@pytest.mark.parametrize("person", PEOPLE)
def test_a_name_of_one_language_is_kept_as_it_is(person: str) -> None:
    assert name("--by", person) == person


@pytest.mark.parametrize(
    ("written", "kept"),
    [("Ａｎａ", "Ana"), ("Jose\u0301", "José"), ("  ana ", "ana"), ("ana\u00a0b", "ana b")],
    ids=["full width", "decomposed", "white space around it", "no-break space"],
)
def test_one_form_is_kept_of_text_that_can_be_written_in_several(written: str, kept: str) -> None:
    assert name("--by", written) == kept
    assert cleaned("--reason", written) == kept


@pytest.mark.parametrize(
    "text",
    [
        "ana\x1b[2J",
        "\x1b]8;;https://example.org\x1b\\ana\x1b]8;;\x1b\\",
        "approved\rrejected",
        "a\u202eb",
        "a\u2066b",
        "a\u200bb",
        "a\u00adb",
        "a\ufe0fb",
        "a\u3164b",
        "a\u2028b",
        "a\ud800b",
        "a\ue000b",
        "a\u0378b",
        "a\x00b",
        "e" + "\u0323" * 6 + "x",
    ],
    ids=ascii,
)
def test_characters_that_steer_or_hide_are_refused(text: str) -> None:
    for take in (name, cleaned):
        with pytest.raises(InputInvalid, match="--reason"):
            take("--reason", text)


def test_a_refusal_names_the_character_and_does_not_repeat_it() -> None:
    with pytest.raises(InputInvalid) as refused:
        cleaned("--reason", "late\u202efraud")
    assert "U+202E RIGHT-TO-LEFT OVERRIDE" in str(refused.value)
    assert "\u202e" not in str(refused.value)


@pytest.mark.parametrize("text", ["аna", "anа", "Αna", "αna", "anаb", "ana\u0531"], ids=ascii)
def test_a_name_that_mixes_look_alike_scripts_is_refused(text: str) -> None:
    with pytest.raises(InputInvalid, match="not of one script"):
        name("--by", text)


def test_words_of_two_scripts_are_text_and_no_name() -> None:
    assert cleaned("--reason", "asked by Иванов") == "asked by Иванов"
    with pytest.raises(InputInvalid):
        name("--by", "ana Иванов")
    with pytest.raises(InputInvalid):
        cleaned("--reason", "asked by Ивaнов")  # its a is a Latin one


def test_units_are_words() -> None:
    assert cleaned("--reason", "300 µs and 4kΩ more") == "300 μs and 4kΩ more"


@pytest.mark.parametrize("text", ["", "   ", "ᚠᚢ", "٣4"], ids=ascii)
def test_what_cannot_be_a_name_is_refused(text: str) -> None:
    with pytest.raises(InputInvalid):
        name("--by", text)


def test_lines_and_tabs_are_taken_where_they_are_asked_for() -> None:
    assert cleaned("notes", "a\n\tb\n", lines=True) == "a\n\tb"
    with pytest.raises(InputInvalid):
        cleaned("notes", "a\nb")
    with pytest.raises(InputInvalid):
        cleaned("notes", "a\r\nb", lines=True)


def test_names_of_one_script_that_look_alike_compare_equal() -> None:
    assert look_alike("Асе") == look_alike("ace")
    assert look_alike("аna") == look_alike("Ána")
    assert look_alike("ΒΟΒ") == look_alike("bob") == look_alike("b0b")
    assert look_alike("anna.rn") == look_alike("anna.m")
    assert look_alike("vvim") == look_alike("wim")
    assert look_alike("ana") != look_alike("anna")


@pytest.mark.parametrize(
    ("drawn", "plain"),
    [
        *[("ᴀna", "ana"), ("ᴏlga", "olga"), ("ʙᴏ", "bo"), ("ꜱam", "sam"), ("ᴋɪm", "kim")],
        *[("ꞵo", "ꞵo"), ("łukasz", "lukasz"), ("bø", "bo"), ("đana", "dana"), ("ɓo", "bo")],
        *[("Ʀob", "rob"), ("ꝏ", "ꝏ"), ("ҟarl", "karl"), ("ϳo", "jo")],
        *[("aIice", "alice"), ("Ida", "ida"), ("BILL", "bill"), ("İda", "ida"), ("ana.", "ana")],
        *[("ana.smith", "ana-smith"), ("D’Arcy", "d'arcy"), ("山田", "山 田")],
    ],
)
def test_letters_that_differ_by_a_stroke_a_size_or_a_sign_compare_equal(
    drawn: str, plain: str
) -> None:
    assert look_alike(drawn) == look_alike(plain)


@pytest.mark.parametrize(
    "text",
    [
        *["ᴀna", "bᴏ", "ꜱam", "ᴊᴏʜɴ", "ɑna", "ɡo", "anɐ", "ƅob", "anaǃ", "ꭺna", "ꬲva"],
        *["🅐na", "🇦na", "ev℮", "b⍥b", "ana½", "ana▪", "аᲂа", "ꙇꙇ", "ϳο"],
    ],
    ids=ascii,
)
def test_a_name_has_letters_of_living_alphabets_alone(text: str) -> None:
    with pytest.raises(InputInvalid, match="--by"):
        name("--by", text)


@pytest.mark.parametrize(
    "person",
    [
        *["Łukasz Żółć", "Đỗ Thị Ơn", "Çağrı Işık", "Əli", "Ọlá Ṣẹ́gun", "Ɓala", "Kɔfi", "Ștefan"],
        *["Þóra Æsir", "Ъ Ңұрсұлтан", "Ґалаґан", "Ἀθηνᾶ", "Núria Paral·lel", "D’Arcy"],
        *["Նարեկ", "გიორგი", "محمد", "प्रिया", "สมชาย", "ana.smith@bank.example", "bo 2"],
    ],
)
def test_names_of_many_languages_are_names(person: str) -> None:
    assert name("--by", person) == unicodedata.normalize("NFKC", person)


def test_what_a_terminal_takes_for_a_command_is_written_out() -> None:
    assert shown("a\x1b[2J\r\u202e\u00a0é\ud800") == "a\\x1b[2J\\x0d\\u202e\\xa0é\\ud800"
    assert shown("a\nb\x07", lines=True) == "a\nb\\x07"


@given(st.text())
def test_what_is_shown_is_printable(text: str) -> None:
    assert shown(text).isprintable()


@given(st.text())
def test_what_was_taken_in_is_taken_in_again_unchanged(text: str) -> None:
    try:
        kept = cleaned("--reason", text)
    except InputInvalid:
        return
    assert cleaned("--reason", kept) == kept
    assert unicodedata.is_normalized("NFKC", kept)


HOSTILE = st.text(alphabet="ab \\`*_[]()<>|~&@:/.#+-=!1\n\t\"'x") | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "[click](javascript:alert(1))",
        "![x](https://example.org/x.png)",
        "https://example.org www.example.org a@example.org",
        "`code` **bold** | cell | &lt;b&gt;",
        "1. first",
        "# heading",
        "```",
    ]
)


@given(HOSTILE)
def test_markdown_shows_the_text_and_does_nothing(text: str) -> None:
    """Read back by a CommonMark parser: one run of plain text that is what was given."""
    tokens = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .parse(f"- before {markdown(text)}")
    )
    inline = next(t for t in tokens if t.type == "inline")
    children = inline.children or []
    assert {t.type for t in children} <= {"text", "text_special"}
    read = "".join(t.content for t in children)
    assert read == f"before {shown(text).strip()}".rstrip()


@given(HOSTILE)
def test_a_line_of_markdown_that_starts_with_the_text_is_a_paragraph(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(markdown(text))
    assert {t.type for t in tokens} <= {"paragraph_open", "inline", "paragraph_close"}
