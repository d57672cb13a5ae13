"""The two pages of the server: one to try a user, one that describes the routes. Both work offline."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from starlette.responses import Response

__all__ = ["description_page", "html_response", "trial_page"]

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", flags=re.S)
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d0d7de; --quiet: #57606a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaef; --paper: #14171c; --line: #39414c; --quiet: #a3adb8; }
}
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; }
h2 { margin: 2rem 0 .25rem; font-size: 1.1rem; }
h2 code { font-size: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; width: 100%; }
caption { text-align: left; color: var(--quiet); font-size: .9rem; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
a { color: inherit; }
"""


@cache
def trial_page() -> str:
    """Return the page to try a user."""
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def html_response(page: str) -> Response:
    """Return a page under a policy that runs only its own script and loads nothing from another server."""
    digests: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        digests[kind].append(f"'sha256-{digest}'")
    policy = (
        f"default-src 'none'; script-src {' '.join(digests['script']) or chr(39) + 'none' + chr(39)}; "
        f"style-src {' '.join(digests['style'])}; connect-src 'self'; img-src 'self' blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy}
    return Response(page, media_type="text/html; charset=utf-8", headers=headers)


def description_page(openapi: Mapping[str, Any]) -> str:
    """Return a page that describes each route: parameters, body and answers.

    Args:
        openapi: The description of the routes, as ``/openapi.json`` gives it.
    """
    schemas = openapi.get("components", {}).get("schemas", {})
    routes = [
        "".join(_route(method.upper(), path, route, schemas))
        for path, methods in openapi["paths"].items()
        for method, route in methods.items()
    ]
    title = html.escape(str(openapi["info"]["title"]))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>Routes of {title}</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
        f"<body><h1>Routes of {title}</h1>"
        '<p><a href="/">Try a user</a> · <a href="/openapi.json">openapi.json</a> for other programs. '
        'A failure is <code>{"error": "one line"}</code>.</p>'
        f"{''.join(routes)}</body></html>"
    )


def _route(method: str, path: str, route: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    meaning = html.escape(route.get("description", ""))
    yield f"<h2><code>{method} {html.escape(path)}</code></h2><p>{meaning}</p>"
    rows = [
        (one["name"], one["schema"], one.get("required", False), one.get("description", ""))
        for one in route.get("parameters", [])
    ]
    yield from _table("Parameters", rows, schemas)
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        yield from _table("Body: a JSON object", _fields(body, schemas), schemas)
    found = route["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema")
    if found:
        yield from _table("Answer: a JSON object", _fields(found, schemas), schemas, is_answer=True)


Field = tuple[str, Mapping[str, Any], bool, str]


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[Field]:
    form = _resolved(schema, schemas)
    needed = form.get("required", [])
    return [
        (name, one, name in needed, one.get("description", ""))
        for name, one in form.get("properties", {}).items()
    ]


def _table(
    caption: str, rows: list[Field], schemas: Mapping[str, Any], *, is_answer: bool = False
) -> Iterator[str]:
    if not rows:
        return
    columns = ("name", "type", "meaning") if is_answer else ("name", "type", "default", "meaning")
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    yield f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>'
    for name, schema, needed, meaning in rows:
        default = "required" if needed else _shown(schema.get("default"))
        cells = (_kind(schema, schemas), *(() if is_answer else (default,)), meaning)
        row = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        yield f'<tr><th scope="row"><code>{html.escape(name)}</code></th>{row}</tr>'
    yield "</tbody></table></div>"


def _text(text: str) -> str:
    """Return a text with its words between backticks as code.

    >>> _text("a < b of `history`")
    'a &lt; b of <code>history</code>'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _shown(default: Any) -> str:
    return "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return schemas.get(name, {}) if name else schema


def _kind(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """Return the type of a value in words.

    >>> _kind({"type": "array", "items": {"type": "string"}}, {})
    'list of string'
    >>> _kind({"anyOf": [{"type": "string"}, {"type": "null"}]}, {})
    'string or null'
    """
    schema = _resolved(schema, schemas)
    if "anyOf" in schema:
        return " or ".join(_kind(one, schemas) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = str(schema.get("type", "value"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}), schemas)}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_kind(schema['additionalProperties'], schemas)}"
    if "properties" in schema:
        return "object: " + ", ".join(schema["properties"])
    low = schema.get("minimum")
    return kind if low is None else f"{kind} from {low}"
