"""Inputs that are nearly right: valid ones, cut, doubled, spliced, with strange values put in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st

TOKENS: Final = tuple(
    bytes(token, "utf-8", "surrogateescape")
    for token in (
        "", "0", "-0", "-1", "1e309", "-1e309", "1e-400", "NaN", "Infinity", "null", "true", "{}",
        "[]", '""', "\\u0000", "\\ud800", "\\uD83D", "\x00", "\r\n", "\n", "\t", " ", "\x1b[2J",
        "\u202e", "\ufeff", "\u00e9", "\U0001f600", "%00", "%2e%2e/", "../", "\\", "'", '"', "`",
        "${x}", "{{7*7}}", "9" * 30, "9" * 400, "18446744073709551616", "-9223372036854775809",
        "9223372036854775807", "2147483648", "a" * 300, "[" * 200, '{"a":' * 200, ":", ",", ";",
        "&a [*a, *a]", "!!python/object:os.system", "<<: *x", "---", "...", "|", ">", "-", "@",
        "://", "//", "?", "#", "localhost:1", "[::1]", "[::", "user:pass@", "\udcff",
        "\udc80\udc80",
    )
)  # fmt: skip
"""What parsers of numbers, texts, paths, YAML and addresses have stumbled over elsewhere."""

MOST_EDITS: Final = 6
MOST_BYTES: Final = 64 * 1024


@st.composite
def near(draw: st.DrawFn, valid: Sequence[bytes]) -> bytes:
    """One of the valid inputs with a few edits, or, one time in eight, bytes of any kind."""
    if draw(st.integers(0, 7)) == 0:
        return draw(st.binary(max_size=512))
    data = bytearray(draw(st.sampled_from(list(valid))))
    for _ in range(draw(st.integers(0, MOST_EDITS))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 24)))
        match draw(st.integers(0, 6)):
            case 0:
                data[at:end] = draw(st.sampled_from(TOKENS))
            case 1:
                data[at:at] = draw(st.sampled_from(TOKENS))
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end] * draw(st.integers(1, 40))
            case 4:
                data[at:end] = draw(st.binary(max_size=16))
            case 5 if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case _:
                other = draw(st.sampled_from(list(valid)))
                data[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data[:MOST_BYTES])


def near_text(valid: Sequence[str]) -> st.SearchStrategy[str]:
    """The same as text; bytes that are none become lone surrogates, as in an environment."""
    encoded = [text.encode() for text in valid]
    return near(encoded).map(lambda data: data.decode("utf-8", "surrogateescape"))


def values() -> st.SearchStrategy[Any]:
    """JSON values of any shape."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats()
        | st.text(max_size=12)
        | st.sampled_from(["", "0", "champion", "fraud", "RS256", "none"])
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=12,
    )
