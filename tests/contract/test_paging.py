"""Lists in pages: every row that was there when the reading began is shown once, whatever is added meanwhile."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx2
import psycopg
import pytest
from api_world import ApiWorld, ok, refused
from conftest import database, serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faucet.api.app import openapi_document
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


WHOLE = {"reconcile_ledger", "read_usage_series", "read_platform_series", "read_statement_keys"}
"""Reports with `items`: a snapshot that is compared as a whole, and a series that is bounded by its times."""
AGAIN = {"validate_own_provider_key", "take_event"}
"""POST, but nothing is created or moved; or what it says is done once by its own id."""


def test_every_list_has_pages_and_every_creation_a_key() -> None:
    """Lost: a list that is cut off in silence, or a POST that a retry does twice."""
    document = openapi_document()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            names = {parameter["name"] for parameter in operation.get("parameters", ())}
            content = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
            reply = content.get("schema", {}).get("$ref", "").rsplit("/", 1)[-1]
            shape = document["components"]["schemas"].get(reply, {}).get("properties", {})
            if method == "get" and "items" in shape and operation["operationId"] not in WHOLE:
                assert {"limit", "cursor"} <= names, path
            if method == "post" and operation["operationId"] not in AGAIN:
                assert "idempotency-key" in names, path


def _walk(http: httpx2.Client, path: str, field: str) -> list[object]:
    """The values of a field in the whole list, read by two rows at a time."""
    shown: list[object] = []
    cursor = None
    for _ in range(20):
        page = ok(http.get(path, params={"limit": 2} | ({} if cursor is None else {"cursor": cursor})))
        assert len(page["items"]) <= 2
        shown += [item[field] for item in page["items"]]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    return shown


def test_keys_versions_and_switches_in_pages(reader: Reader) -> None:
    """Lost: what is beyond a fixed number of signing keys, versions or switches can't be seen by anybody."""
    developer = reader.world.developer()
    app = developer.app()
    path = f"/v1/developer/apps/{app['public_app_id']}"
    made = [
        ok(developer.http.post(f"{path}/signing-keys", json={"name": f"K{n}", "kind": "HS256"}), 201)["item"]["key_id"]
        for n in range(5)
    ]
    assert _walk(developer.http, f"{path}/signing-keys", "key_id") == made[::-1]
    feature = developer.feature(app)["feature_key"]
    for n in range(4):
        ok(developer.http.patch(f"{path}/features/{feature}", json={"display_name": f"F{n}"}))
    assert _walk(developer.http, f"{path}/features/{feature}/versions", "version") == [5, 4, 3, 2, 1]
    providers = [f"provider-{n}" for n in range(5)]
    with psycopg.connect(reader.world.api.dsn, autocommit=True) as connection:  # all in the same moment
        connection.execute(
            "insert into kill_switch (target, target_id, reason, thrown_by)"
            " select 'provider', unnest(%s::text[]), 'r', 'operator'",
            (providers,),
        )
        assert sorted(map(str, _walk(reader.world.operator, "/v1/admin/kill-switches", "target_id"))) == providers
        connection.execute("delete from kill_switch")
