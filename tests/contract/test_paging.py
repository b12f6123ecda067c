"""Lists in pages: every row that was there when the reading began is shown once, whatever is added meanwhile."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from api_world import ApiWorld, ok, refused
from conftest import database, serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faucet.api.paging import cursor_of, place_of
from faucet.kit.config import Config, load_config
from faucet.kit.ids import uuid7

PATH = "/v1/developer/apps"


@pytest.fixture(scope="module")
def reader(server_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """An API with one database for all examples; each reads the apps of a developer of its own."""
    from conftest import RunningApi

    config: Config = load_config({"FAUCET_DATA": str(tmp_path_factory.mktemp("data"))})
    with database(server_dsn, template) as dsn, serve(config, dsn) as base_url:
        world = ApiWorld(RunningApi(base_url, config, dsn))
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield Reader(world, connection)
        world.close()


class Reader:
    def __init__(self, world: ApiWorld, connection: psycopg.Connection) -> None:
        self.world = world
        self._connection = connection
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def add(self, developer_id: str, same_moment: bool) -> str:
        """An app that is newer than all before it, or of the same moment as the one before it."""
        if not same_moment:
            self._now += timedelta(microseconds=1)
        name = f"p{uuid7()}"
        self._connection.execute(
            "insert into app (id, developer_id, public_app_id, name, created_at) values (%s, %s, %s, 'A', %s)",
            (uuid7(), developer_id, name, self._now),
        )
        return name


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    there=st.lists(st.booleans(), max_size=25),
    added=st.lists(st.lists(st.booleans(), max_size=4), max_size=8),
    limit=st.integers(1, 9),
)
def test_no_row_is_missed_or_shown_twice(
    reader: Reader, there: list[bool], added: list[list[bool]], limit: int
) -> None:
    """Lost: an export that lacks rows, or counts some twice, because somebody worked meanwhile."""
    developer = reader.world.developer()
    expected = [reader.add(developer.id, same) for same in there]
    reader.add(reader.world.developer().id, False)  # rows of others don't matter
    shown: list[str] = []
    cursor, additions = None, iter(added)
    for _ in range(len(there) + 2):
        params: dict[str, str | int] = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
        page = ok(developer.http.get(PATH, params=params))
        assert len(page["items"]) <= limit
        shown += [item["public_app_id"] for item in page["items"]]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
        for same in next(additions, []):
            reader.add(developer.id, same)
    assert cursor is None
    assert shown == expected[::-1]


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9998, 1, 1)), st.uuids())
def test_a_cursor_is_its_place(moment: datetime, row_id: object) -> None:
    """Lost: a place that is off by a microsecond shows a row twice, or skips one."""
    place = (moment.replace(tzinfo=UTC), row_id)
    assert place_of(cursor_of(*place)) == place  # type: ignore[arg-type]


def test_cursors_that_are_none(reader: Reader) -> None:
    """Lost: a cursor that was cut or made up is a fault of ours, or quietly begins anew."""
    developer = reader.world.developer()
    made_up = [
        b"", b"|", b"2026-01-01T00:00:00+00:00|", b"2026-01-01T00:00:00|01890000-0000-7000-8000-000000000000",
        b"0001-01-01T00:00:00+14:00|01890000-0000-7000-8000-000000000000", b"\xff\x00", b"x|y",
    ]  # fmt: skip
    for cursor in ["", "?", "a", "A" * 201, *(base64.urlsafe_b64encode(m).decode() for m in made_up)]:
        refused(developer.http.get(PATH, params={"cursor": cursor}), 400, "invalid_request")
    for limit in ("0", "201", "-1", "x", "9" * 30):
        refused(developer.http.get(PATH, params={"limit": limit}), 400, "invalid_request")
