"""AWS's binary event streams: messages cut from bytes, checked by their CRCs, their headers read.

A message is two lengths and their CRC32, headers, a payload, and a CRC32 of it all. Not here: what a message means.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from faucet.providers.base import Unreadable

MESSAGE_BYTES_MAX = 4 << 20
"""No honest message is longer."""
_PRELUDE = struct.Struct(">III")
_AROUND = _PRELUDE.size + 4
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type, but for those that tell their length."""
_BYTES, _TEXT = 6, 7


@dataclass(frozen=True, slots=True)
class Message:
    """One message: the headers that are texts, and the payload."""

    headers: dict[str, str]
    payload: bytes


class MessageCutter:
    """Cuts a byte stream into whole messages, wherever the reads happened to cut it."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete now, to be read to the last. Raises Unreadable for one that is damaged."""
        data = self._rest + data if self._rest else data
        start = 0
        while len(data) - start >= _PRELUDE.size:
            total, headers, crc = _PRELUDE.unpack_from(data, start)
            if zlib.crc32(data[start : start + 8]) != crc:
                raise Unreadable("a damaged prelude of a message")
            if not headers + _AROUND <= total <= MESSAGE_BYTES_MAX:
                raise Unreadable("a message of an impossible length")
            end = start + total
            if len(data) < end:
                break
            if zlib.crc32(data[start : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise Unreadable("a damaged message")
            begin = start + _PRELUDE.size
            yield Message(_headers(data[begin : begin + headers]), data[begin + headers : end - 4])
            start = end
        self._rest = data[start:]


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name_end = at + 1 + data[at]
            name, kind = data[at + 1 : name_end].decode(), data[name_end]
            at = name_end + 1
            if kind in _FIXED:
                at += _FIXED[kind]
                continue
            if kind not in (_BYTES, _TEXT):
                raise Unreadable("a header of an unknown type")
            end = at + 2 + int.from_bytes(data[at : at + 2], "big")
            if kind == _TEXT:
                found[name] = data[at + 2 : end].decode()
            at = end
    except (IndexError, UnicodeDecodeError):
        raise Unreadable("damaged headers") from None
    if at != len(data):
        raise Unreadable("damaged headers")
    return found
