"""Somebody in front of the platform's page, as a browser is: a cookie, an Origin, forms."""

from __future__ import annotations

import re
from html import unescape

import httpx

HTML = {"Accept": "text/html"}


class Visitor:
    """A browser of one person.

    Args:
        url: of the page, which its forms name as their origin.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, headers=HTML)

    def sign_in(self, name: str, key: str, **headers: str) -> httpx.Response:
        return self.post("/sign-in", {"name": name, "key": key, "next": "/"}, **headers)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        """A form, from this page unless the headers say otherwise; `Origin=""` leaves it out."""
        sent = {"Origin": self.url, **headers}
        return self.client.post(
            path, data=fields, headers={name: value for name, value in sent.items() if value}
        )

    def fields(self, path: str) -> dict[str, str]:
        """The hidden fields of the form at a path."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return hidden(answer.text, path)

    def act(self, path: str, reason: str = "as the test says") -> httpx.Response:
        """Open the form of an act and send it."""
        return self.post(path, {**self.fields(path), "reason": reason})

    def buttons(self, path: str) -> set[str]:
        """The acts that a page offers."""
        return set(re.findall(r'href="[^"]*/act/([a-z-]+)"', self.get(path).text))

    def close(self) -> None:
        self.client.close()


def hidden(text: str, action: str) -> dict[str, str]:
    """The hidden fields of the form that is sent to a path."""
    form = text[text.index(f'action="{action}"') :]
    found = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form[: form.index("</form>")])
    return {name: unescape(value) for name, value in found}
