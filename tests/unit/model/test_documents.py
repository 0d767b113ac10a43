"""YAML that people write: what is taken, and what is refused with its line before it takes room."""

from __future__ import annotations

import time
from functools import partial

import pytest

from mlplatform.model import document
from mlplatform.model.rules import parse_reasons, parse_rules
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)

read = partial(document.read, source="model.yaml", wanted="YAML")


def test_plain_values_are_read_as_they_are():
    text = "name: x\nshares: [0.5, 1]\nnested: {on: null, '1': 2026-01-01}\n"
    found = read(text.replace("on:", "'on':"))
    assert found["shares"] == [0.5, 1]
    assert list(found["nested"]) == ["on", "1"]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        pytest.param(LAUGHS, 1, "references", id="a billion laughs"),
        pytest.param("a: 1\nb: *a\n", 2, "references", id="an alias of nothing"),
        pytest.param("a: &a\n  b: *a\n", 1, "references", id="a mapping within itself"),
        pytest.param("a: !!python/object:os.system x\n", 1, "tags", id="a tag of Python"),
        pytest.param("a: !!binary aGk=\n", 1, "tags", id="a tag of YAML"),
        pytest.param('a: 1\nb: "\\UFFFFFFFF"\n', 2, "an escape or", id="an escape beyond numbers"),
        pytest.param('a: "\\U00110000"\n', 1, "an escape or", id="an escape beyond Unicode"),
        pytest.param(f"%YAML {'1' * 5000}.1\n---\na: 1\n", 1, "an escape or", id="a long version"),
        pytest.param("[" * 100_000, 1, "nested more than 32 deep", id="lists within lists"),
        pytest.param("{a: " * 50_000, 1, "nested more than 32 deep", id="mappings within"),
        pytest.param("a:\n- " + "- " * 500 + "1\n", 2, "nested more than 32 deep", id="dashes"),
        pytest.param('a: 1\nb: "\\ud800"\n', 2, "half a character, U+D800", id="half a character"),
        pytest.param('"\\udc80": 1\n', 1, "half a character, U+DC80", id="half a key"),
        pytest.param("x\n" * 150_000, 1, "300000 characters; the limit", id="a large file"),
        pytest.param("[" + "1, " * 25_000 + "]", 1, "more than 20000 values", id="many values"),
        pytest.param("a: 1\nb: 2\na: 3\n", 3, "the key a stands there twice", id="a key twice"),
        pytest.param("a: 1\n1.5: 2\n", 2, "the key 1.5 is not a text", id="a fraction as a key"),
        pytest.param("1: 1\n'1': 2\n", 2, "the key 1 stands there twice", id="a number twice"),
        pytest.param("a: 1\non: 2\n", 2, "the key on is not a text", id="a truth value as a key"),
        pytest.param("? [a, b]\n: 1\n", 1, "a key is a list", id="a list as a key"),
        pytest.param("a: {<<: {b: 1}}\n", 1, "the key << is not a text", id="a merge"),
        pytest.param("a: 2026-13-45\n", 1, "can't be read as the date", id="a month that is none"),
        pytest.param("a: " + "9" * 10_000, 1, "a number of more", id="a number without an end"),
        pytest.param("a: 0x" + "f" * 9_000, 1, "a number of more", id="one of base 16"),
        pytest.param("a: 1" + ":1" * 90_000, 1, "a number of more", id="one of base 60"),
        pytest.param("a: [1, 2\nb: 3\n", 2, "", id="no YAML"),
    ],
)
def test_what_takes_more_than_it_shows_is_refused_with_its_line(text, line, why):
    began = time.monotonic()
    with pytest.raises(ConfigUnusable) as caught:
        read(text)
    assert time.monotonic() - began < 30
    said = str(caught.value)
    assert said.startswith(f"model.yaml: line {line}: ")
    assert why in said
    assert said.endswith("; wanted: YAML")


def test_a_long_text_that_begins_like_a_number_is_one():
    text = "3 of the models that are named here " * 4
    assert read(f"a: {text}\nb: '{'9' * 90}'\n") == {"a": text.strip(), "b": "9" * 90}


def test_a_forbidden_character_is_refused():
    with pytest.raises(ConfigUnusable, match=r"^model\.yaml: a character that YAML forbids"):
        read("a: \x00\n")


@pytest.mark.parametrize("parsed", [partial(parse_rules, decisions=["pass"]), parse_reasons])
def test_rules_and_reasons_are_read_so_too(parsed):
    with pytest.raises(ConfigInvalid, match=r"x\.yaml: line 1: references"):
        parsed(LAUGHS, source="x.yaml", inputs=("amount",))
