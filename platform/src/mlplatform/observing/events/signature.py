"""Signatures of webhooks, by which a receiver knows who sent a body, and when.

Source: Standard Webhooks 1.0, "Signature scheme", symmetric: HMAC-SHA256 over `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from mlplatform.runtime.errors import ConfigInvalid, Refused

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 -- what every secret begins with
SCHEME: Final = "v1"
LEAST_BYTES, MOST_BYTES = 24, 64
"""Least and most bytes of a secret."""
TOLERANCE_S: Final = 300
"""Seconds by which a timestamp may be old or ahead; an older body may be a replayed recording."""
MOST_FILE_BYTES: Final = 4096


def secret(file: Path) -> bytes:
    """The secret in a file: `whsec_` and Base64 of 24 to 64 random bytes.

    Raises:
        ConfigInvalid: the file can't be read or holds something else; its content is not named.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_FILE_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise ConfigInvalid("a secret file", str(file), f"a file to read ({why})") from None
    wanted = (
        f"{SECRET_PREFIX} and Base64 of {LEAST_BYTES} to {MOST_BYTES} random bytes in it: "
        f"echo {SECRET_PREFIX}$(head -c 32 /dev/urandom | base64)"
    )
    try:
        found = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        found = b""
    if not text.startswith(SECRET_PREFIX) or not LEAST_BYTES <= len(found) <= MOST_BYTES:
        raise ConfigInvalid("a secret file", str(file), wanted)
    return found


def signed(secrets: Sequence[bytes], event_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """The signature headers of a body, with one signature for each secret.

    Args:
        at_s: time of this attempt, epoch seconds.
    """
    signatures = (_signature(one, event_id, str(at_s), body) for one in secrets)
    return {ID: event_id, TIMESTAMP: str(at_s), SIGNATURE: " ".join(signatures)}


def verify(
    secrets: Sequence[bytes], headers: Mapping[str, str], body: bytes, *, now_s: float
) -> None:
    """Raises unless one of the secrets has signed this body recently.

    Raises:
        Refused: the timestamp is too far from now, or no signature fits; the message says which.
    """
    event_id, at, signatures = (headers.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not (at.isascii() and at.isdigit()) or abs(now_s - int(at)) > TOLERANCE_S:
        raise Refused(f"{TIMESTAMP} is {at!r}; wanted: within {TOLERANCE_S} s of now")
    expected = [_signature(one, event_id, at, body) for one in secrets]
    if not any(
        hmac.compare_digest(one.encode(), other.encode())
        for one in signatures.split()
        for other in expected
    ):
        raise Refused(f"no signature in {SIGNATURE} is of this secret, id, time and body")


def _signature(key: bytes, event_id: str, at: str, body: bytes) -> str:
    signed_part = b".".join((event_id.encode(), at.encode(), body))
    made = hmac.new(key, signed_part, hashlib.sha256).digest()
    return f"{SCHEME},{base64.b64encode(made).decode()}"
