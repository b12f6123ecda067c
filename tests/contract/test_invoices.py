"""Invoices of providers: imported once, listed, withdrawn; what is wrong with one is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from api_world import ApiWorld, Json, ok, refused
from books import Books
from conftest import RunningApi

from faucet.cli.main import app, main
from faucet.closing.invoices import SheetRefused, read_sheet

INVOICES = "/v1/admin/provider-invoices"
INVOICE: Json = {
    "provider": "openai",
    "reference": "INV-2026-10",
    "first_day": "2026-10-01",
    "last_day": "2026-10-31",
    "lines": [
        {"day": "2026-10-01", "model": "gpt-4.1", "amount_usd": "12.34"},
        {"day": "2026-10-01", "model": "gpt-4.1", "amount_usd": "0.00000001"},
        {"day": "2026-10-02", "model": "gpt-4.1-mini", "amount_usd": "0"},
    ],
}


@pytest.fixture
def world(api: RunningApi) -> Iterator[ApiWorld]:
    world = ApiWorld(api)
    yield world
    world.close()


def test_an_invoice_is_imported_once_and_can_be_withdrawn(world: ApiWorld, books: Books) -> None:
    """Lost: an invoice counts twice, or a wrong one for ever."""
    headers = {"idempotency-key": "import-october"}
    made = ok(world.operator.post(INVOICES, json=INVOICE, headers=headers), 201)
    assert (made["total_usd"], made["lines"], made["imported_by"]) == ("12.34000001", 2, "operator")
    assert ok(world.operator.post(INVOICES, json=INVOICE, headers=headers), 201) == made
    refused(world.operator.post(INVOICES, json=INVOICE), 409, "conflict")
    assert ok(world.operator.get(INVOICES))["items"] == [made]
    assert world.operator.delete(f"{INVOICES}/{made['id']}").status_code == 204
    refused(world.operator.delete(f"{INVOICES}/{made['id']}"), 404, "not_found")
    again = ok(world.operator.post(INVOICES, json=INVOICE), 201)
    listed = ok(world.operator.get(INVOICES, params={"limit": 1}))
    assert [each["id"] for each in listed["items"]] == [again["id"]] and listed["next_cursor"]
    actions = books.rows("select action from audit_log where resource_type = 'provider_invoice' order by id")
    assert actions == [("invoice.imported",), ("invoice.withdrawn",), ("invoice.imported",)]
    refused(world.developer().http.get(INVOICES), 403, "forbidden")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"first_day": "2026-11-01"}, "last_day"),
        ({"first_day": "2020-01-01"}, "last_day"),
        ({"first_day": "2026-10-02"}, "lines.0.day"),
        ({"first_day": "soon"}, "first_day"),
        ({"first_day": "0001-01-01"}, "first_day"),
        ({"provider": ""}, "provider"),
        ({"provider": "a\u0000b"}, "provider"),
        ({"lines": [{"day": "2026-10-01", "model": "m", "amount_usd": "-1"}]}, "amount_usd"),
        ({"lines": [{"day": "2026-10-01", "model": "m", "amount_usd": 1}]}, "amount_usd"),
        ({"lines": [{"day": "2026-10-01", "amount_usd": "1"}]}, "model"),
        ({"more": 1}, "more"),
    ],
)
def test_bad_input_is_named(world: ApiWorld, change: Json, field: str) -> None:
    """Lost: an import fails, and nobody knows why."""
    error = refused(world.operator.post(INVOICES, json=INVOICE | change), 400, "invalid_request")
    assert field in str(error)


def test_a_sheet_is_read() -> None:
    """Lost: an amount of a provider's own file is read as another."""
    lines = read_sheet(["day,note,model,amount_usd\n", "2026-10-01,x, gpt-4.1 , 1.50\n", "2026-10-02,,m,0.1\n"])
    assert [(str(line.day), line.model, line.amount_e8) for line in lines] == [
        ("2026-10-01", "gpt-4.1", 150_000_000), ("2026-10-02", "m", 10_000_000),
    ]  # fmt: skip
    for bad, reason in (
        (["day,model\n"], "line 1 lacks the columns amount_usd"),
        (["day,model,amount_usd\n"], "there is no line"),
        (["day,model,amount_usd\n", "2026-10-01,m,1e3\n"], "line 2"),
        (["day,model,amount_usd\n", "2026-10-01,m\n"], "line 2"),
        (["day,model,amount_usd\n", "10/01/2026,m,1\n"], "line 2"),
        (["day,model,amount_usd\n", "2026-10-01,,1\n"], "names no model"),
        (["day,model,amount_usd\n", "2026-10-01," + "m" * 200_000 + ",1\n"], "line [12]: field larger"),
        (["x" * 200_000 + "\n"], "line 1: field larger"),
    ):
        with pytest.raises(SheetRefused, match=reason):
            read_sheet(bad)


def test_the_command_imports_a_file(
    world: ApiWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost: an operator has to write JSON by hand."""
    monkeypatch.setenv("ADMIN_TOKEN", world.api.config.admin_token.reveal())
    sheet = tmp_path / "october.csv"
    sheet.write_text("day,model,amount_usd\n2026-10-01,gpt-4.1,1.25\n2026-10-03,gpt-4.1,2\n", encoding="utf-8-sig")

    def faucet(*words: str) -> tuple[int, str]:
        try:
            main(partial(app, ["invoices", *words, "--api", world.api.base_url], standalone_mode=True))
            code: Any = 0
        except SystemExit as ended:
            code = ended.code or 0
        shown = capsys.readouterr()
        return int(code), shown.out + shown.err

    code, told = faucet("import", str(sheet), "--provider", "openai", "--reference", "INV-9")
    assert code == 0 and "3.25000000" in told
    (item,) = ok(world.operator.get(INVOICES))["items"]
    assert (item["first_day"], item["last_day"]) == ("2026-10-01", "2026-10-03")
    assert faucet("list")[0] == 0
    assert faucet("withdraw", item["id"])[0] == 0
    sheet.write_text("nothing")
    code, told = faucet("import", str(sheet), "--provider", "openai", "--reference", "INV-9")
    assert code == 1 and "line 1 lacks the columns" in told


def test_parquet_that_is_not_installed_is_said(tmp_path: Path) -> None:
    """Lost: a server without the extra answers with a fault of its own."""
    program = """
import sys
sys.modules["pyarrow"] = None  # as if it were not there
from faucet.kit.errors import Refusal
from faucet.reports.exports import USAGE
from faucet.reports.parquet import ParquetFile
try:
    ParquetFile(USAGE)
except Refusal as refusal:
    print(refusal.status, refusal.public)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "400 this server writes no Parquet: its extra `parquet` is not installed\n", ran.stderr
