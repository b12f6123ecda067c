"""Lists in pages: `?limit=&cursor=`, newest first, and a reply of `{items, next_cursor?}`.

A cursor is the place of the last row that was shown, (created_at, id), in base64url. Rows that are added meanwhile
are newer than any place that a client holds, so none is missed or shown twice. It is no secret and is not signed:
it only says where to go on in what the caller may see anyway.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from fastapi import Depends, Query

from faucet.api.wire import Reply
from faucet.kit.errors import field_error

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
CURSOR_CHARACTERS_MAX = 200

Row = TypeVar("Row")
Item = TypeVar("Item")
Place = tuple[datetime, UUID]


class PageReply(Reply, Generic[Item]):
    """One page of a list. Where `next_cursor` is absent it was the last."""

    items: list[Item]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is wanted."""

    limit: int
    after: Place | None
    """The last row that the caller has seen; None begins with the newest."""

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than is shown, which tells whether there are more."""
        return self.limit + 1

    def cut(self, rows: Sequence[Row], place: Callable[[Row], Place]) -> tuple[Sequence[Row], str | None]:
        """The rows to show of those that were read, and the cursor of the page after them, if there is one."""
        if len(rows) <= self.limit:
            return rows, None
        shown = rows[: self.limit]
        return shown, cursor_of(*place(shown[-1]))


def cursor_of(created_at: datetime, row_id: UUID) -> str:
    """The cursor of the rows after this one."""
    text = f"{created_at.astimezone(UTC).isoformat(timespec='microseconds')}|{row_id}"
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def place_of(cursor: str) -> Place:
    """The place that a cursor names. Raises Refusal `invalid_request` for one that we never made."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        at, _, row_id = text.partition("|")
        moment, wanted = datetime.fromisoformat(at), UUID(row_id)
        if moment.tzinfo is None:
            raise ValueError
        # The ends of Python's calendar have no other time zone.
        return moment.astimezone(UTC), wanted
    except (ValueError, OverflowError, binascii.Error):
        raise field_error("cursor", "is not a cursor that this list gave") from None


def page(
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT,
    cursor: Annotated[str | None, Query(min_length=1, max_length=CURSOR_CHARACTERS_MAX)] = None,
) -> Page:
    """The page that a request asks for. Raises Refusal `invalid_request`."""
    return Page(limit, None if cursor is None else place_of(cursor))


def page_reply(items: Sequence[Item], next_cursor: str | None) -> PageReply[Item]:
    """The reply of a list."""
    return PageReply(items=list(items), next_cursor=next_cursor)


ThePage = Annotated[Page, Depends(page)]
