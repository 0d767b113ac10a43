"""A text has the same tokens in training, serving and over the log, whatever a caller sends."""

from __future__ import annotations

import json
import math
import time
import unicodedata
from random import Random

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.model.definition import InputSpec, RequestField, are_whole, row_inputs
from mlplatform.model.findings import DocumentInvalid
from mlplatform.model.folders import load_definition, model_folder, parse
from mlplatform.model.inputs import InputPlan
from mlplatform.model.tensors.signature import (
    InputTensor,
    OutputTensor,
    ScoreOutput,
    Signature,
    Tensors,
)
from mlplatform.model.tensors.tokens import (
    MOST_READ,
    Tokenizer,
    Tokens,
    learned_tokens,
    split,
    token_problems,
    tokens_of,
    words_of,
)

WORDS = ("paypal", "straße".casefold(), "amazon", "кофе", "咖", "का")
CHARACTERS = ("pay", "ayp", " pa", "al ", "l d", "zon")
BY_WORDS = Tokens(of="words", length=6)
BY_CHARACTERS = Tokens(of="characters", length=9, grams=3)
FRAUD = load_definition("fraud")
DEFINITION = msgspec.structs.replace(
    FRAUD,
    request={**FRAUD.request, "note": RequestField(type="string", max_length=200)},
    inputs=row_inputs((
        InputSpec(name="note", kind="text", of="note", tokens=BY_WORDS),
        FRAUD.inputs[0],
        InputSpec(name="letters", kind="text", of="note", tokens=BY_CHARACTERS),
    ), {}),
)  # fmt: skip
KNOWN = {"note": WORDS, "letters": CHARACTERS}
PLAN = InputPlan(DEFINITION, (), vocabularies=KNOWN)
YAML = (model_folder("fraud") / "model.yaml").read_text()

PIECES = (
    *(*WORDS, "PAYPAL *", "\uff30\uff41\uff59pal", "Straße", "12,50", " ", "שלום", "\n"),
    *("\u200b", "\u202e", "\u0301", "\u0338" * 40, "\ufb01", "\u1160", "\ufdfa", "\u2800", "\x00"),
)
hostile = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def fuzzed(count: int) -> list[str | None]:
    """Pieces that people and attackers write, and any characters, up to 200 of them."""
    random = Random(7)

    def piece() -> str:
        if random.random() < 0.7:
            return random.choice(PIECES)
        code = random.randrange(0x110000 if random.random() < 0.3 else 0x3000)
        return " " if 0xD800 <= code < 0xE000 else chr(code)  # half characters: no column has them

    texts = ["".join(piece() for _ in range(random.randrange(40)))[:200] for _ in range(count - 1)]
    return [None, *texts]


def test_a_text_has_the_same_places_alone_in_a_column_and_in_the_log() -> None:
    """A request's row, training's matrix and the log's agree to the bit on 10 000 texts."""
    values = fuzzed(10_000)
    alone = [PLAN.row({"amount": 1.0, "note": value}, 0, {}) for value in values]
    assert len(PLAN.names) == 6 + 1 + 9
    times = pa.array([0] * len(values), pa.timestamp("ms"))
    table = {"event_time": times, "amount": [1.0] * len(values), "note": values}
    matrix = PLAN.matrix(pa.table(table))
    np.testing.assert_array_equal(np.array(alone, np.float32), matrix)
    payloads = [json.dumps({"request": {"amount": 1.0, "note": v}, "features": {}}) for v in values]
    kept = pa.table({"event_ms": pa.array([0] * len(values), pa.int64()), "payload": payloads})
    np.testing.assert_array_equal(matrix, LoggedInputs(PLAN).read(kept).matrix)
    assert {1.0, *range(2, 2 + len(WORDS))} <= set(matrix[:, :6][matrix[:, :6] == matrix[:, :6]])


@settings(deadline=None, max_examples=500)
@given(st.text(alphabet=st.characters(), max_size=80))
def test_every_text_is_split_alike_in_all_of_its_spellings(text: str) -> None:
    words = split(text)
    assert words == split(" ".join(words)), "what it is split into is its own form"
    assert words == split(unicodedata.normalize("NFKD", text)) or len(text) > 40
    assert all(len(word) and not word.isspace() for word in words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PayPal *Spotify, 12.50 EUR", ["paypal", "spotify", "12", "50", "eur"]),
        ("\uff30\uff21\uff39PAL", ["paypal"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("pay\u200bpal \u202ePAY\u00adPAL", ["paypal", "paypal"]),
        ("caf\u00e9 cafe\u0301", ["caf\u00e9", "caf\u00e9"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("שלום עולם", ["שלום", "עולם"]),
        ("\ud800pay\udfff", ["pay"]),
        ("a\x00b\nc", ["a", "b", "c"]),
        ("pay\u3164pal", ["paypal"]),
        ("", []),
        ("*** --- \u2800", []),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_text_is_split_into(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_tokens_are_runs_of_words_or_characters() -> None:
    text = "one two three"
    assert tokens_of(text, Tokens(of="words", length=2)) == ["one", "two"]
    assert tokens_of(text, Tokens(of="words", length=9, grams=2)) == ["one two", "two three"]
    assert tokens_of(text, Tokens(of="words", length=9, grams=5)) == ["one two three"]
    assert tokens_of(text, Tokens(of="characters", length=3, grams=3)) == ["one", "ne ", "e t"]
    assert tokens_of("ab", BY_CHARACTERS) == ["ab"]
    assert tokens_of(None, BY_WORDS) == tokens_of(7, BY_WORDS) == []


def test_an_unknown_token_has_its_own_place_and_no_token_is_missing() -> None:
    places = Tokenizer(BY_WORDS, WORDS).places("Amazon casino")
    assert places[:2] == [4.0, 1.0]
    assert all(map(math.isnan, places[2:]))
    assert len(places) == BY_WORDS.length


@pytest.mark.parametrize(
    "text",
    ["x" * 5_000_000, "\u0301\u0323" * 2_000_000, "\ufdfa" * 1_000_000, "\ud800" * 1_000_000],
    ids=["long", "marks", "ligatures", "surrogates"],
)
def test_megabytes_take_the_time_of_their_first_characters(text: str) -> None:
    tokenizer = Tokenizer(BY_CHARACTERS, CHARACTERS)
    start = time.process_time()
    places = tokenizer.places(text)
    assert time.process_time() - start < 0.25
    assert len(places) == BY_CHARACTERS.length
    np.testing.assert_array_equal(places, tokenizer.places(text[:MOST_READ]))


def test_tokens_are_learned_by_how_many_texts_hold_them() -> None:
    column = pa.chunked_array([["a a b", "a c", "b", None, "x" * 65] * 5 + ["only here"]])
    assert learned_tokens(column, BY_WORDS, most=10) == ("a", "b", "c")
    assert learned_tokens(column, BY_WORDS, most=1) == ("a",)
    assert "here" in learned_tokens(column, BY_WORDS, most=10, least_rows=1)


@pytest.mark.parametrize("text", ["a\u00ad\u0300", "E\u200e\u0300", "\u036f\u200b\u0859\u206b"])
def test_something_invisible_keeps_no_mark_from_its_letter(text: str) -> None:
    assert [split(word) for word in split(text)] == [split(text)]


@settings(deadline=None)
@given(hostile, st.sampled_from([BY_WORDS, BY_CHARACTERS, Tokens(of="words", length=5, grams=2)]))
def test_what_is_learned_is_a_vocabulary_that_a_bundle_takes(text: str, tokens: Tokens) -> None:
    column = pa.chunked_array([[text]], pa.string())
    assert list(token_problems({"t": learned_tokens(column, tokens, most=99, least_rows=1)})) == []


@pytest.mark.parametrize(
    "words", [["PayPal"], [""], ["a", "a"], ["a  b"], ["\u200b"], ["x" * 65], ["w"] * 10_001]
)
def test_what_no_text_holds_is_no_token(words: list[str]) -> None:
    assert len(list(token_problems({"t": words}))) == 1


def test_a_graph_takes_tokens_as_whole_numbers_of_a_declared_length() -> None:
    names = DEFINITION.inputs
    signature = Signature(
        inputs=(
            InputTensor(
                name="tokens",
                dtype="int64",
                shape=("n", 6),
                of=tuple(i.name for i in names if i.declared == "note"),
            ),
        ),
        outputs=(OutputTensor(name="p", dtype="float32", shape=("n",)),),
        score=ScoreOutput(output="p"),
    )
    tensors = Tensors(signature, [i.name for i in names], KNOWN)
    rows = np.array([PLAN.row({"amount": 1.0, "note": "Amazon casino"}, 0, {})], np.float32)
    found = tensors.feeds(rows)["tokens"]
    assert (found.dtype, found.tolist()) == (np.int64, [[4, 1, 0, 0, 0, 0]])


def test_places_of_other_tokens_have_other_names() -> None:
    assert words_of("note.w1.3", KNOWN) == WORDS
    assert words_of("note.c3.3", {}) is None
    assert words_of("amount", KNOWN) is None
    assert are_whole(DEFINITION.inputs)
    assert not are_whole(DEFINITION.inputs[:-1])
    assert not are_whole(DEFINITION.inputs[::-1])


TEXT = "inputs:\n  - {name: note, kind: text, of: note, tokens: {of: words, length: 4}}\n"
FIELD = "request:\n  note: {type: string}\n"


def with_text(text: str = TEXT) -> str:
    return YAML.replace("inputs:\n", text, 1).replace("request:\n", FIELD, 1)


def test_model_yaml_declares_a_text_once_and_a_row_has_all_of_its_places() -> None:
    names = [i.name for i in parse(with_text(), "model.yaml").inputs]
    assert names[:5] == ["note.w1.1", "note.w1.2", "note.w1.3", "note.w1.4", FRAUD.inputs[0].name]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (", tokens: {of: words, length: 4}", "", "inputs.0.tokens is 'not there'; wanted: {of: wo"),
        ("length: 4", "length: 65", "inputs.0.tokens.length is 65; wanted: "),
        ("of: words", "of: bytes", "inputs.0.tokens.of is 'bytes'; wanted: one of words, characte"),
        ("name: note", "name: note.w1.2", "inputs.0.name is 'note.w1.2'; wanted: a name that does"),
        ("kind: text", "kind: category", "inputs.0.tokens is Tokens("),
    ],
)
def test_what_is_wrong_with_a_text_is_told_by_line(before: str, after: str, said: str) -> None:
    with pytest.raises(DocumentInvalid) as caught:
        parse(with_text(TEXT.replace(before, after)), "model.yaml")
    assert said in str(caught.value)
