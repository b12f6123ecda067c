"""The API's reference for people, at `/docs`: a page over `/openapi.json` that asks no other host for anything."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from faucet.kit.errors import Refusal

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent / "reference"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do; the browser holds it to that."""
_KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_PACKED = ("swagger-ui-bundle.js", "swagger-ui.css")
_ASSETS = frozenset((*_PACKED, "page.js"))


@router.get("/docs")
async def show_reference() -> Response:
    """The page."""
    return _response(_read("page.html"), "text/html; charset=utf-8", cache_control="no-cache")


@router.get("/docs/{name}")
async def read_reference_asset(name: str, request: Request) -> Response:
    """A part of the page, packed for who can unpack it. Raises Refusal `not_found`."""
    if name not in _ASSETS:
        raise Refusal("not_found", "there is nothing at this path")
    kind = _KINDS[name.rsplit(".", 1)[1]]
    if name not in _PACKED:
        return _response(_read(name), kind)
    packed = _read(f"{name}.gz")
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return _response(gzip.decompress(packed), kind)
    response = _response(packed, kind)
    response.headers["content-encoding"] = "gzip"
    return response


@cache
def _read(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def _response(content: bytes, kind: str, *, cache_control: str = "public, max-age=86400") -> Response:
    headers = {
        "cache-control": cache_control,
        "vary": "accept-encoding",
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return Response(content, media_type=kind, headers=headers)
