"""A category is the same place in training, serving and over the log, whatever text comes."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.model.definition import InputSpec, RequestField
from mlplatform.model.findings import DocumentInvalid
from mlplatform.model.folders import load_definition, model_folder, parse
from mlplatform.model.inputs import InputPlan
from mlplatform.model.profile import category, distance, share_psi
from mlplatform.model.tensors.categories import (
    UNKNOWN,
    column_places,
    frequent_words,
    indices,
    place,
    places,
    translated,
    word_form,
    word_of,
)
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.request.payloads import Payloads

WORDS = ("web", "shop", "Straße")
KNOWN = places(WORDS)
FRAUD = load_definition("fraud")
CHANNEL = InputSpec(name="channel", kind="category", of="channel")
DEFINITION = msgspec.structs.replace(
    FRAUD,
    request={**FRAUD.request, "channel": RequestField(type="string", max_length=20)},
    inputs=(FRAUD.inputs[0], CHANNEL),
)
PLAN = InputPlan(DEFINITION, (), vocabularies={"channel": WORDS})
YAML = (model_folder("fraud") / "model.yaml").read_text()
texts = (
    st.none()
    | st.text(max_size=30)
    | st.sampled_from([*WORDS, " web ", "\uff57\uff45\uff42", "we\u200bb"])
)


@settings(deadline=None)
@given(st.lists(texts, min_size=1))
def test_a_text_has_the_same_place_alone_in_a_column_and_in_the_log(values: list[str]) -> None:
    alone = [place(value, KNOWN) for value in values]
    np.testing.assert_array_equal(
        alone, column_places(pa.chunked_array([values], pa.string()), KNOWN)
    )
    rows = [PLAN.row({"amount": 1.0, "channel": v}, 0, {})[1] for v in values]
    np.testing.assert_array_equal(alone, rows)
    payloads = [json.dumps({"request": {"channel": v}, "features": {}}) for v in values]
    table = pa.table({"event_ms": pa.array([0] * len(values), pa.int64()), "payload": payloads})
    logged = LoggedInputs(PLAN).read(table)
    np.testing.assert_array_equal(np.float32(alone), logged.matrix[:, 1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", 2.0),
        (" web\n", 2.0),
        ("\uff57\uff45\uff42", 2.0),
        ("Strasse", UNKNOWN),
        ("we\u200bb", UNKNOWN),
        ("\x1b[2Jweb", UNKNOWN),
        ("w\u0435b", UNKNOWN),
        ("x" * 1_000_000, UNKNOWN),
        ("\ud800", UNKNOWN),
        (7, UNKNOWN),
        ("", math.nan),
        ("  ", math.nan),
        (None, math.nan),
    ],
    ids=[
        "a word",
        "white space around a word",
        "a word in full width",
        "another word",
        "an invisible character",
        "a control sequence",
        "a Cyrillic letter in a Latin word",
        "a million characters",
        "half a character",
        "no text",
        "an empty text",
        "a blank text",
        "nothing",
    ],
)
def test_what_is_no_word_is_unknown_and_what_is_nothing_is_missing(
    text: str, expected: float
) -> None:
    np.testing.assert_equal(place(text, KNOWN), expected)


@settings(deadline=None)
@given(st.lists(st.text(max_size=8), max_size=40), st.integers(1, 5))
def test_what_is_learned_is_bounded_kept_text_and_each_word_has_its_own_place(
    values: list[str], most: int
) -> None:
    column = pa.chunked_array([values], pa.string())
    words = frequent_words(column, most)
    assert len(words) <= most
    assert all(word_form(word) == word for word in words)
    assert [place(word, places(words)) for word in words] == [2.0 + i for i in range(len(words))]
    assert words == frequent_words(column.take(pa.array(np.arange(len(values))[::-1])), most)


def test_the_most_frequent_words_are_learned_first() -> None:
    column = pa.chunked_array([["b", "a", "b", "c", "a ", "\x07", "\x07", "\x07"]], pa.string())
    assert frequent_words(column, 2) == ("a", "b")


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"abcdefg", ""]), min_size=1), st.sets(st.sampled_from("abcdefg")))
def test_places_of_one_vocabulary_become_those_of_another(
    values: list[str], other: set[str]
) -> None:
    every, wanted = tuple("abcdefg"), tuple(sorted(other))
    column = pa.chunked_array([values], pa.string())
    held = column_places(column, places(every)).astype(np.float32)
    expected = column_places(column, places(wanted)).astype(np.float32)
    np.testing.assert_array_equal(expected, translated(held, every, wanted))


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1))
def test_no_number_leads_beyond_a_vocabulary(values: list[float]) -> None:
    found = indices(np.array(values, np.float32), 3)
    assert ((found >= 0) & (found < 5)).all()
    np.testing.assert_array_equal(found == 0, np.isnan(values))


def test_a_reader_sees_the_word() -> None:
    assert [word_of(v, WORDS) for v in (2.0, 4.0, 1.0, 99.0, None, math.nan)] == [
        *("web", "Straße", "(unknown)", "(unknown)"),
        *(None, None),
    ]


def test_a_category_without_words_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigInvalid, match="channel: vocabulary"):
        InputPlan(DEFINITION, ())


@pytest.mark.parametrize("of", ["amount", "customer_id", "nobody"])
def test_a_category_is_of_a_text_that_is_no_pseudonym(of: str) -> None:
    spec = InputSpec(name="channel", kind="category", of=of)
    with pytest.raises(ConfigInvalid, match="channel: of"):
        InputPlan(DEFINITION, (), [spec], vocabularies={"channel": WORDS})


def test_a_category_moves_by_its_shares_and_has_no_distance() -> None:
    then = np.repeat([2.0, 3.0, 1.0, np.nan], [700, 290, 10, 50]).astype(np.float32)
    column = category(then, "channel", 3)
    assert column.is_category
    assert column.shares == (0.01, 0.7, 0.29)
    now = np.repeat([1.0, 2.0, 3.0], [500, 400, 100]).astype(np.float64)
    assert distance(column, now) == 0.0
    assert share_psi(np.array(column.shares), np.array([0.5, 0.4, 0.1])) > 1


def body(**changed: object) -> bytes:
    asked = {"customer_id": 1, "terminal_id": 2, "amount": 3.0, "event_time": 5, "channel": "web"}
    return json.dumps(asked | changed).encode()


def test_a_text_longer_than_its_field_takes_is_refused_by_the_fields_name() -> None:
    with pytest.raises(Problem) as refused:
        Payloads(DEFINITION).score(body(channel="x" * 21))
    assert (refused.value.status, refused.value.details.field) == (422, "channel")


def test_a_closed_list_takes_its_texts_alone_and_does_not_repeat_what_came() -> None:
    closed = msgspec.structs.replace(
        DEFINITION,
        request={**DEFINITION.request, "channel": RequestField(type="string", values=("web", ""))},
    )
    payloads = Payloads(closed)
    assert payloads.score(body()).fields["channel"] == "web"
    for strange in ("web\n", "WEB", "\x1b[2J"):
        with pytest.raises(Problem) as refused:
            payloads.score(body(channel=strange))
        assert (refused.value.status, refused.value.details.field) == (422, "channel")
        assert strange not in str(refused.value)
        assert "channel must be one of an empty text, web" in refused.value.details.detail


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("amount: {type: float64,", "amount: {type: float64, max_length: 3,", "only texts"),
        ("amount: {type: float64,", "amount: {type: float64, values: [a],", "only texts"),
        (
            "label:\n",
            "vocabularies: {amount: [a]}\nlabel:\n",
            "vocabularies.amount .* kind category",
        ),
        (
            "inputs:\n",
            "vocabularies: {c: [a, a]}\ninputs:\n  - {name: c, kind: category, of: x}\n",
            "stands there twice",
        ),
        (
            "inputs:\n",
            'vocabularies: {c: ["a\\u200b"]}\ninputs:\n  - {name: c, kind: category, of: x}\n',
            "not a text in the form",
        ),
        (
            "request:\n",
            "request:\n  x: {type: string, max_length: 2, values: [abc]}\n",
            "the longest of values",
        ),
    ],
    ids=[
        "a length of a number",
        "a list of a number",
        "words of a number",
        "a word twice",
        "a word with an invisible character",
        "a word longer than its field",
    ],
)
def test_model_yaml_says_what_is_wrong_with_texts(old: str, new: str, told: str) -> None:
    with pytest.raises(DocumentInvalid, match=told):
        parse(YAML.replace(old, new, 1), "model.yaml")
