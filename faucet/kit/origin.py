"""Web origins as browsers send them."""

from __future__ import annotations

from urllib.parse import urlsplit

_OWN_PORTS = {"http": 80, "https": 443}


def exact_origin(text: str) -> str:
    """The text if it is one exact origin: scheme, host, and the port where it isn't the scheme's own.

    Raises ValueError.
    """
    parts = urlsplit(text)
    if parts.scheme not in _OWN_PORTS or not parts.hostname or f"{parts.scheme}://{parts.netloc}" != text:
        raise ValueError(f"{text!r} is not an origin such as https://app.example.com")
    if parts.username is not None or "*" in text or text != text.lower() or not text.isascii():
        raise ValueError(f"{text!r} is not one exact, lower-case origin")
    if parts.port == _OWN_PORTS[parts.scheme]:
        raise ValueError(f"{text!r}: browsers leave this port out")
    return text
