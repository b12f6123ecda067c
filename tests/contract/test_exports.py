"""Exports as files: exact columns, sums that are the ledger's, nobody else's rows, nothing that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import timedelta

import pyarrow.parquet
import pytest
from api_world import ApiWorld, ok, refused, tenant_of
from big_export import Totals, added_up, fill, ledger
from books import Books, Settlement
from conftest import RunningApi
from past import as_jobs, months_ago

from faucet.jobs.roll_up import roll_up

USAGE = (
    "created_at,request_id,public_app_id,feature_key,route_mode,provider,model,input_tokens,output_tokens,"
    "upstream_cost_usd,retail_price_usd,channel_revenue_usd,platform_revenue_usd"
)
REVENUE = (
    "public_app_id,developer_id,developer_email,total_calls,upstream_cost_usd,retail_price_usd,channel_revenue_usd,"
    "platform_revenue_usd"
)
PAYOUTS = "created_at,updated_at,payout_id,developer_id,developer_email,amount_usd,status,provider,provider_payout_id"
OPERATOR, OWN = "/v1/admin/reports", "/v1/developer/exports"
EVENTS = 6_000


@pytest.fixture
def world(api: RunningApi) -> Iterator[ApiWorld]:
    world = ApiWorld(api)
    yield world
    world.close()


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def money(totals: Totals) -> tuple[int, ...]:
    return totals.cost_e8, totals.retail_e8, totals.channel_e8, totals.platform_e8


@pytest.mark.parametrize("rolled", [False, True])
def test_columns_add_up_to_the_ledger(world: ApiWorld, books: Books, dsn: str, rolled: bool) -> None:
    """Lost: an accountant's sums differ from the books, if only in the last digit."""
    fill(books, EVENTS)
    if rolled:
        assert as_jobs(dsn, roll_up) > 27
    usage, revenue = (world.operator.get(f"{OPERATOR}/{name}.csv") for name in ("usage", "revenue"))
    assert usage.status_code == revenue.status_code == 200
    assert usage.headers["content-type"] == "text/csv; charset=utf-8"
    assert usage.text.splitlines()[0] == USAGE and revenue.text.splitlines()[0] == REVENUE
    assert added_up(usage.text.splitlines()) == ledger(books)
    assert money(added_up(revenue.text.splitlines())) == money(ledger(books))
    assert sum(int(row["total_calls"]) for row in rows_of(revenue.text)) == EVENTS


def test_usage_is_in_the_order_of_time_and_can_be_cut(world: ApiWorld, books: Books) -> None:
    """Lost: a month's file has another month's lines, or two files share one."""
    fill(books, 600)
    month = months_ago(2)
    middle = month.first_day + timedelta(days=11)
    whole = world.operator.get(f"{OPERATOR}/usage.csv").text.splitlines()[1:]
    assert whole == sorted(whole)
    parts = [
        world.operator.get(f"{OPERATOR}/usage.csv", params=params).text.splitlines()[1:]
        for params in ({"to": str(middle)}, {"from": f"{middle}T00:00:00Z"})
    ]
    assert all(parts) and parts[0] + parts[1] == whole
    revenue = [
        added_up(world.operator.get(f"{OPERATOR}/revenue.csv", params=params).text.splitlines())
        for params in ({"to": str(middle)}, {"from": f"{middle}T00:00:00Z"})
    ]
    assert [money(each) for each in revenue] == [money(added_up([USAGE, *part])) for part in parts]
    empty = world.operator.get(f"{OPERATOR}/usage.csv", params={"from": str(months_ago(0).next.first_day)})
    assert empty.text == USAGE + "\n"


def test_nothing_in_a_file_is_a_formula(world: ApiWorld, books: Books) -> None:
    """Lost: whoever opens an export in a spreadsheet runs what an end user wrote."""
    fill(books, 200)
    rows = rows_of(world.operator.get(f"{OPERATOR}/usage.csv").text)
    assert {row["provider"] for row in rows} == {"mock", "'=cmd|calc"}
    assert any(row["request_id"].startswith("'-req-") for row in rows)
    for row in rows:
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row.values())


def test_a_developer_s_export_has_their_own_rows(world: ApiWorld, books: Books) -> None:
    """Lost: a developer reads what others' users ask and pay."""
    fill(books, 90)
    owner, stranger = world.developer(), world.developer(("developer:usage:read",))
    app = owner.app()
    tenant = tenant_of(books, app)
    assert books.settle(Settlement(tenant, books.held(tenant, 500), cost=100, channel=40, platform=60)) == [0]
    (row,) = rows_of(owner.http.get(f"{OWN}/usage.csv").text)
    assert (row["public_app_id"], row["channel_revenue_usd"], row["route_mode"]) == (
        app["public_app_id"], "0.00000040", "platform",
    )  # fmt: skip
    (line,) = rows_of(owner.http.get(f"{OWN}/revenue.csv").text)
    assert (line["developer_id"], line["total_calls"], line["retail_price_usd"]) == (owner.id, "1", "0.00000200")
    assert stranger.http.get(f"{OWN}/usage.csv").text == USAGE + "\n"
    assert stranger.http.get(f"{OWN}/revenue.csv").text == REVENUE + "\n"
    refused(world.developer(("developer:apps:read",)).http.get(f"{OWN}/usage.csv"), 403, "forbidden")
    refused(owner.http.get(f"{OPERATOR}/usage.csv"), 403, "forbidden")
    refused(world.nobody.get(f"{OPERATOR}/usage.csv"), 401, "invalid_session")


def test_payouts_are_exported(world: ApiWorld, books: Books) -> None:
    """Lost: an accountant's list of what left."""
    owner, stranger = world.developer(), world.developer()
    books.rows(
        "insert into payout (id, developer_id, amount_e8, status, provider, requested_by, approved_by,"
        " provider_payout_id, paid_at, ended_at) select gen_random_uuid(), %s, n * 1000000, 'paid', 'manual', 'a', 'b',"
        " '=bank:' || n, now(), now() from generate_series(1, 3) n",
        owner.id,
    )
    for text in (world.operator.get(f"{OPERATOR}/payouts.csv").text, owner.http.get(f"{OWN}/payouts.csv").text):
        assert text.splitlines()[0] == PAYOUTS
        rows = rows_of(text)
        assert sorted(row["amount_usd"] for row in rows) == ["0.01000000", "0.02000000", "0.03000000"]
        assert {row["provider_payout_id"] for row in rows} == {"'=bank:1", "'=bank:2", "'=bank:3"}
        assert {(row["developer_id"], row["status"]) for row in rows} == {(owner.id, "paid")}
    assert stranger.http.get(f"{OWN}/payouts.csv").text == PAYOUTS + "\n"


def test_parquet_has_the_same_rows(world: ApiWorld, books: Books) -> None:
    """Lost: the same report says something else in another form."""
    fill(books, 900)
    reply = world.operator.get(f"{OPERATOR}/usage.csv", params={"format": "parquet"})
    assert reply.headers["content-disposition"] == 'attachment; filename="usage.parquet"'
    table = pyarrow.parquet.read_table(io.BytesIO(reply.content))
    assert ",".join(table.column_names) == USAGE and table.num_rows == 900
    rows = rows_of(world.operator.get(f"{OPERATOR}/usage.csv").text)
    for name in ("upstream_cost_usd", "retail_price_usd", "channel_revenue_usd", "platform_revenue_usd"):
        assert [f"{value:f}" for value in table[name].to_pylist()] == [row[name] for row in rows]
    assert table["model"].to_pylist() == [row["model"] for row in rows]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"from": "2026-10-01T00:00:00"}, "from"),
        ({"from": "0000-00-00"}, "from"),
        ({"format": "xlsx"}, "format"),
        ({"from": "2026-10-02", "to": "2026-10-01"}, "from"),
    ],
)
def test_bad_bounds_are_named(world: ApiWorld, params: dict[str, str], field: str) -> None:
    """Lost: a typing error gives everything, or a fault of ours."""
    error = refused(world.operator.get(f"{OPERATOR}/usage.csv", params=params), 400, "invalid_request")
    assert field in str(error)


def test_exports_leave_connections_to_others(world: ApiWorld, books: Books) -> None:
    """Lost: a few slow readers of files take every connection that the API has, and never give one back."""
    fill(books, 40_000)
    streams = []
    for _ in range(3):
        request = world.operator.build_request("GET", f"{OPERATOR}/usage.csv")
        streams.append(world.operator.send(request, stream=True))
        assert streams[-1].status_code == 200
    error = refused(world.operator.get(f"{OPERATOR}/revenue.csv"), 429, "rate_limited")
    assert "exports" in error["message"]
    assert ok(world.operator.get("/v1/admin/periods"))["items"] == []
    for stream in streams:
        stream.close()
    last = None
    for _ in range(200):
        last = world.operator.get(f"{OPERATOR}/revenue.csv")
        if last.status_code == 200:
            break
    assert last is not None and last.status_code == 200


def test_one_developer_s_slow_readers_leave_exports_to_others(world: ApiWorld, books: Books) -> None:
    """Lost: a developer who reads three files a byte a minute keeps everybody, operators too, from theirs."""
    fill(books, 40_000)
    slow, other, third = (world.developer(("developer:usage:read",)) for _ in range(3))
    books.rows("set session_replication_role = replica")
    busiest = books.one("select developer_id from usage_event limit 1")
    for table in ("app", "usage_event"):
        books.rows(f"update {table} set developer_id = %s where developer_id = %s", slow.id, busiest)
    books.rows("reset session_replication_role")
    stream = slow.http.send(slow.http.build_request("GET", f"{OWN}/usage.csv"), stream=True)
    assert stream.status_code == 200
    error = refused(slow.http.get(f"{OWN}/payouts.csv"), 429, "rate_limited")
    assert "of yours" in error["message"]
    for http, place in ((other.http, OWN), (third.http, OWN), (world.operator, OPERATOR)):
        assert http.get(f"{place}/payouts.csv").status_code == 200
    stream.close()


def test_the_head_of_an_export_costs_nothing_to_know(world: ApiWorld) -> None:
    """Lost: HEAD is refused, or sends the file."""
    reply = world.operator.head(f"{OPERATOR}/usage.csv")
    assert reply.status_code == 200 and reply.content == b""
