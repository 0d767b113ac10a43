"""How brokers of Kafka are named, and what a client is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlplatform.decisions.topics.kafka_access import client_options
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.storage import addresses

PLAIN = "kafka-0:9092,kafka-1:9092"
TLS = "kafka+ssl://kafka-0:9093,kafka-1:9094?ssl.ca.location=/ca.pem"
USER = "kafka+ssl://the%20platform@kafka-0:9093"
BY_TLS = {"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "https"}


@pytest.mark.parametrize(
    ("url", "file", "told"),
    [
        (PLAIN, "", {"bootstrap.servers": PLAIN}),
        (
            TLS,
            "",
            {
                "bootstrap.servers": "kafka-0:9093,kafka-1:9094",
                **BY_TLS,
                "ssl.ca.location": "/ca.pem",
            },
        ),
        (
            USER,
            "/password",
            {
                "bootstrap.servers": "kafka-0:9093",
                **BY_TLS,
                "security.protocol": "sasl_ssl",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": "the platform",
                "sasl.password": "hidden",
            },
        ),
    ],
    ids=["plain", "TLS with an authority", "a user, over TLS"],
)
def test_a_client_is_told_what_the_address_says(url: str, file: str, told: dict[str, Any]) -> None:
    given = {"K": url, "K_PASSWORD_FILE": file}
    brokers = addresses.kafka("K", given)
    assert brokers is not None
    assert told == client_options(brokers, "hidden" if file else None)
    assert addresses.kafka("K", addresses.variables("K", brokers)) == brokers
    assert "hidden" not in repr(brokers)


def test_no_address_is_no_brokers_whatever_password_there_is() -> None:
    assert addresses.kafka("K", {"K": "", "K_PASSWORD_FILE": "/password"}) is None


@pytest.mark.parametrize(
    ("url", "file", "wanted"),
    [
        ("kafka+ssl://u:secret@k:9093", "", "K_PASSWORD_FILE names its file"),
        ("kafka+ssl://u:sec/ret?@k:9093", "", "K_PASSWORD_FILE names its file"),
        ("u:secret://@k:9092", "", "K_PASSWORD_FILE names its file"),
        ("kafka://u:secret@k:9092", "", "K_PASSWORD_FILE names its file"),
        ("kafka+ssl://k:9093?sasl.password=secret", "", "no option but ssl.ca.location"),
        ("kafka+ssl://u@k:9093", "", "K_PASSWORD_FILE is ''; wanted: the file"),
        ("kafka+ssl://k:9093", "/p", "nothing, or a user in K"),
        ("k:9092", "/p", "brokers without TLS get no password"),
        ("u@k:9092", "", "a user over TLS: "),
        ("kafka://k:9092", "", r"host:port, or kafka\+ssl"),
        ("kafka+ssl://k:9093#x", "", "host:port"),
        ("kafka+ssl://k", "", "brokers as host:port"),
        ("k:9092,,j:9092", "", "brokers as host:port"),
        ("k:0", "", "brokers as host:port"),
        ("k:65536", "", "brokers as host:port"),
        ("k:9092/topic", "", "brokers as host:port"),
    ],
)
def test_a_wrong_address_is_refused_without_saying_a_secret(
    url: str, file: str, wanted: str
) -> None:
    with pytest.raises(ConfigInvalid, match=wanted) as caught:
        addresses.kafka("K", {"K": url, "K_PASSWORD_FILE": file})
    assert "sec" not in str(caught.value).replace("security", "")


def test_a_password_that_cannot_be_read_is_told_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    brokers = addresses.kafka("K", {"K": USER, "K_PASSWORD_FILE": str(file)})
    assert brokers is not None
    file.write_text("hidden\n")
    assert brokers.password() == "hidden"
