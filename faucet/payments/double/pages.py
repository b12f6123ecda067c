"""Pages of the double: what a browser is shown, and the routes that show it."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass

from faucet.payments.double.routes import Call
from faucet.payments.double.state import State


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page, or where the browser is sent instead."""

    body: str = ""
    status: int = 200
    location: str | None = None


_STYLE = """
:root { color-scheme: light dark; --page: #f6f8fa; --card: #fff; --text: #1a1f36; --quiet: #4f566b; --line: #a3acba;
  --main: #1d4ed8; --bad: #b91c1c; --bad-page: #fef2f2 }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --card: #161b22; --text: #e6edf3; --quiet: #a7b1bd;
  --line: #56606c; --main: #2f62e0; --bad: #ffb4ab; --bad-page: #3b1212 } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; background: var(--page); color: var(--text) }
main { max-width: 26rem; margin: 3rem auto; background: var(--card); padding: 2rem; border-radius: .75rem;
  box-shadow: 0 2px 12px #0002 }
h1 { font-size: 1rem; font-weight: 500; margin: 0; color: var(--quiet) }
.amount { font-size: 2.25rem; font-weight: 600 }
label { display: block; margin: 1rem 0 .25rem; font-weight: 500 }
input { width: 100%; box-sizing: border-box; padding: .6rem; font: inherit; border: 1px solid var(--line);
  background: var(--card); color: var(--text) }
.row { display: flex; gap: 1rem } .row > div { flex: 1 }
button { margin-top: 1.5rem; width: 100%; padding: .75rem; font: inherit; font-weight: 600; color: #fff;
  background: var(--main); border: 0; border-radius: .4rem; cursor: pointer }
.error { color: var(--bad); background: var(--bad-page); padding: .6rem; border-radius: .4rem }
.test { background: #ffde92; color: #7a4b00; font-size: .8rem; padding: .1rem .5rem; border-radius: .3rem }
a, small { color: var(--quiet) } code { font-size: .85em }
"""


def framed(title: str, inside: str, status: int = 200) -> Page:
    """A page of this title; `inside` is HTML."""
    return Page(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f'<main><span class="test">TEST MODE</span>{inside}</main></html>',
        status,
    )


@dataclass(frozen=True, slots=True)
class PageRoute:
    """A page's method and path; `call.params` are the form's fields, unchecked texts."""

    method: str
    path: str
    act: Callable[[State, Call], Page]
