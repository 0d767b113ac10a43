"""An OpenAPI document as one page: nothing is fetched, and nothing runs that is not named here.

Without its script the page is complete: what each operation takes and answers, with an example and
a command to type. The script sends the examples from the browser; the policy lets it reach this
gateway alone, and it keeps the key in the page's memory.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, Final

from mlplatform.scoring.api.reference.examples import as_sent
from mlplatform.scoring.api.reference.schemas import code, properties, prose, table, words

Json = Mapping[str, Any]

_FOLDER: Final = Path(__file__).parent
_STYLE: Final = (_FOLDER / "style.css").read_text()
_SCRIPT: Final = (_FOLDER / "send.js").read_text()
_JSON: Final = "application/json"
_TYPED: Final = str.maketrans({"\\": r"\\", "$": r"\$", "`": r"\`"})
"""Characters of a body that a shell would interpret in a here-document."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page, with the Content-Security-Policy that it is sent with."""

    html: bytes
    policy: bytes


def pages(documents: Mapping[str, bytes]) -> dict[str, Page]:
    """Path of each document's page → the page; the path ends with `.html` where the document's ends
    with `.json`."""
    own = {path: path.removesuffix("json") + "html" for path in documents}
    return {
        own[path]: render(json.loads(text), others=tuple(own.values()))
        for path, text in documents.items()
    }


def render(document: Json, *, others: Sequence[str] = (), sends: bool = True) -> Page:
    """The page of one document.

    Args:
        others: addresses of the installation's other pages, for a menu.
        sends: whether the page has the script that sends requests.
    """
    info, operations = document["info"], list(_operations(document))
    title = f"{info['title']} {info['version']}"
    script = f"<script>{_SCRIPT}</script>" if sends else ""
    html = "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<header><h1>{escape(title)}</h1><p>{prose(info.get('description', ''))}</p>",
            _menu(others),
            "</header><main>",
            _callers(document, sends=sends),
            _contents(operations),
            *(_operation(*each) for each in operations),
            "<h2>Schemas</h2>",
            *(_schema(*each) for each in document["components"]["schemas"].items()),
            f"</main>{script}</body></html>",
        )
    )
    return Page(html.encode(), _policy(sends=sends))


def _policy(*, sends: bool) -> bytes:
    scripts = f"script-src {_hashed(_SCRIPT)}; connect-src 'self'; " if sends else ""
    return (
        f"default-src 'none'; {scripts}style-src {_hashed(_STYLE)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).encode()


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _menu(addresses: Sequence[str]) -> str:
    links = "".join(f'<li><a href="{escape(a)}">{escape(a)}</a></li>' for a in addresses)
    return f'<nav aria-label="Pages of this gateway"><ul>{links}</ul></nav>' if links else ""


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Path, method and description of each, in the document's order."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _callers(document: Json, *, sends: bool) -> str:
    """The part on authentication, and where the script takes the key from."""
    schemes = document["components"].get("securitySchemes", {})
    rows = ((code(name), prose(one.get("description", ""))) for name, one in schemes.items())
    credentials = table("Either one, as Authorization: Bearer", ("credential", "what it is"), rows)
    field = (
        '<p class="key" hidden><label for="key">Key or token for what is sent from this page'
        '</label><input id="key" type="password" autocomplete="off" spellcheck="false"></p>'
    )
    return f"<h2>Who calls</h2>{credentials}{field if sends else ''}"


def _contents(operations: Sequence[tuple[str, str, Json]]) -> str:
    rows = (
        (
            f'<a href="#{escape(one["operationId"])}">{method} {escape(path)}</a>',
            prose(one.get("summary", "")),
        )
        for path, method, one in operations
    )
    return "<h2>Operations</h2>" + table("", ("call", "what it does"), rows)


def _operation(path: str, method: str, operation: Json) -> str:
    identity, asks = escape(operation["operationId"]), operation.get("security") != []
    body = operation.get("requestBody", {}).get("content", {}).get(_JSON)
    is_open = "" if asks else "<p>Answers anybody.</p>"
    parts = [
        f'<section id="{identity}" aria-labelledby="{identity}-title">',
        f'<h3 id="{identity}-title"><span class="method">{method}</span> {code(path)}</h3>',
        f"<p>{prose(operation.get('summary', ''))}</p>{is_open}",
        _parameters(operation.get("parameters", ())),
        "" if body is None else f"<h4>Body</h4><p>{words(body['schema'])}</p>",
        "" if body is None else properties(body["schema"], "Fields of the body"),
        _example(path, method, body, asks=asks),
        _responses(operation["responses"]),
        "</section>",
    ]
    return "".join(parts)


def _parameters(parameters: Sequence[Json]) -> str:
    rows = (
        (
            code(one["name"]),
            escape(one["in"]),
            words(one["schema"]),
            "yes" if one.get("required") else "no",
            prose(one.get("description", "")),
        )
        for one in parameters
    )
    heads = ("name", "in", "takes", "required", "meaning")
    return f"<h4>Parameters</h4>{table('', heads, rows)}" if parameters else ""


def _example(path: str, method: str, body: Json | None, *, asks: bool) -> str:
    """The example of an operation; empty for a body that only a worker has."""
    if body is not None and "example" not in body:
        return ""
    text = "" if body is None else json.dumps(body["example"], indent=2, ensure_ascii=False)
    shown = f'<pre class="example">{escape(text)}</pre>' if text else ""
    command = escape(_command(path, method, text, asks=asks))
    return (
        f'<h4>Example</h4><div class="call" data-method="{method}" data-path="{escape(path)}"'
        f' data-asks="{"yes" if asks else "no"}">{shown}</div>'
        f"<details><summary>As a command</summary><pre>{command}</pre></details>"
    )


def _command(path: str, method: str, text: str, *, asks: bool) -> str:
    """The call as a command; `$GATEWAY` is the address, `$KEY` the key."""
    key = ' -H "Authorization: Bearer $KEY"' if asks else ""
    address = path.replace("{decision_id}", "$DECISION").replace("{version}", "$VERSION")
    if method == "GET":
        return f'curl -s "$GATEWAY{address}"{key}'
    sent = as_sent(text.translate(_TYPED), now_ms="$(date +%s)000", decision_id="$DECISION")
    return (
        f'curl -s "$GATEWAY{address}"{key} \\\n'
        f"  -H 'Content-Type: {_JSON}' -d @- <<END\n{sent}\nEND"
    )


def _responses(responses: Json) -> str:
    rows = (
        (code(status), prose(one["description"]), _headers(one), _contents_of(one))
        for status, one in responses.items()
    )
    heads = ("status", "meaning", "headers", "body")
    return f"<h4>Answers</h4>{table('', heads, rows)}"


def _headers(response: Json) -> str:
    return ", ".join(map(code, response.get("headers", {})))


def _contents_of(response: Json) -> str:
    return "; ".join(
        f"{words(content['schema'])} as {code(kind)}" if "schema" in content else code(kind)
        for kind, content in response.get("content", {}).items()
    )


def _schema(name: str, schema: Json) -> str:
    fields = properties(schema, f"Fields of {name}") or f"<p>{words(schema)}</p>"
    return (
        f'<section id="schema-{escape(name)}"><h3>{escape(name)}</h3>'
        f"<p>{prose(schema.get('description', ''))}</p>{fields}</section>"
    )
