"""The client settings for the brokers, and the handling of brokers that refuse a client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlplatform.runtime.errors import ConfigInvalid, Unavailable
from mlplatform.runtime.storage.addresses import KAFKA_SSL, Brokers

if TYPE_CHECKING:  # only where topics are on Kafka
    from confluent_kafka import KafkaError
    from confluent_kafka.admin import AdminClient

REACH_S: Final = 15.0
ASK_S: Final = 1.0
MECHANISM: Final = "SCRAM-SHA-512"
Client = TypeVar("Client")


def client_options(brokers: Brokers, password: str | None) -> dict[str, Any]:
    """Settings of librdkafka with which any client speaks to the brokers.

    Source: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
    """
    options: dict[str, Any] = {"bootstrap.servers": ",".join(brokers.hosts)}
    if not brokers.tls:
        return options
    options |= {"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "https"}
    if brokers.authority is not None:
        options["ssl.ca.location"] = str(brokers.authority)
    if brokers.user is not None:
        options |= {
            "security.protocol": "sasl_ssl",
            "sasl.mechanism": MECHANISM,
            "sasl.username": brokers.user,
            "sasl.password": password or "",
        }
    return options


class Access:
    """Makes the clients of one user of the brokers, and notices if the brokers refuse them.

    A client of librdkafka retries a refused password or certificate for ever, and every call just
    times out. Its error is noticed here, and `check` raises it.

    Args:
        options: settings of librdkafka for every client, besides those of the brokers; None means
            none.
    """

    def __init__(self, brokers: Brokers, options: Mapping[str, Any] | None = None) -> None:
        self._brokers = brokers
        self._options = dict(options or {})
        self._refused = ""
        self._last_error = ""

    def client(self, kind: Callable[[dict[str, Any]], Client], **own: Any) -> Client:
        """A client with settings of its own; in their names `_` stands for a dot.

        Raises:
            ConfigInvalid: the client refuses the settings, for example because a file is missing.
            Unavailable: the password's file cannot be read.
        """
        from confluent_kafka import KafkaException

        options = client_options(self._brokers, self._brokers.password()) | self._options
        options |= {name.replace("_", "."): value for name, value in own.items()}
        try:
            return kind({**options, "error_cb": self._note_error})
        except KafkaException as error:
            raise self._invalid(error.args[0].str()) from error

    def topics(self, admin: AdminClient) -> set[str]:
        """Names of the existing topics.

        Raises:
            ConfigInvalid: the brokers refuse the user or the password, or their certificate is not
                trusted.
            Unavailable: no broker answered within REACH_S.
        """
        from confluent_kafka import KafkaException

        until_s = time.monotonic() + REACH_S
        while True:
            try:
                return set(admin.list_topics(timeout=ASK_S).topics)
            except KafkaException as error:
                admin.poll(0)
                self.check()
                if time.monotonic() > until_s:
                    why = self._last_error or error.args[0].str()
                    raise Unavailable(f"Kafka at {self._brokers}: {why}; {self._how()}") from error

    def check(self) -> None:
        """Raises ConfigInvalid: a client was refused."""
        if self._refused:
            raise self._invalid(self._refused)

    def _note_error(self, error: KafkaError) -> None:
        from confluent_kafka import KafkaError

        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # it follows every other error
            self._last_error = error.str()
        if _is_refusal(error):
            self._refused = self._last_error

    def _invalid(self, why: str) -> ConfigInvalid:
        wanted = f"brokers that this client may speak to: {why}; {self._how()}"
        return ConfigInvalid(self._brokers.variable, self._brokers.url, wanted)

    def _how(self) -> str:
        """The clients' protocol and where it is set. A broker that wants more closes the connection
        without a reason."""
        brokers = self._brokers
        if not brokers.tls:
            return f"this client connects without TLS; with TLS: {KAFKA_SSL}"
        user = f"without a user; with one: {KAFKA_SSL}"
        trusted = "trusts this machine's authorities"
        if brokers.user is not None:
            file = f"{brokers.variable}_PASSWORD_FILE: {brokers.password_file}"
            user = f"as {brokers.user!r} ({file})"
        if brokers.authority is not None:
            trusted = f"ssl.ca.location: {brokers.authority}"
        return f"this client connects by TLS ({trusted}), {user}"


def _is_refusal(error: KafkaError) -> bool:
    """Whether retrying does not help. One error code covers every failure of a handshake, so its
    text decides.

    Source: librdkafka, rdkafka_ssl.c, rd_kafka_transport_ssl_handshake.
    """
    from confluent_kafka import KafkaError

    if error.code() == KafkaError._AUTHENTICATION:
        return True
    return bool(error.code() == KafkaError._SSL and "certificate" in error.str())
