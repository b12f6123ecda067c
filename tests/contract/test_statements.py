"""Months and their statements over the API and by the command line, from the operator's wish to the offline proof."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from api_world import ApiWorld, Developer, Json, ok, refused, tenant_of
from books import Books, Settlement, Tenant
from conftest import RunningApi
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from past import SIGNER, as_jobs, date_back, months_ago

from faucet.cli.main import app, main
from faucet.closing.document import read_file
from faucet.closing.pdf import statement_pdf
from faucet.jobs.close_periods import close_periods
from faucet.kit.errors import Fault

PERIODS, STATEMENTS = "/v1/admin/periods", "/v1/developer/statements"
LAST = str(months_ago(1))


@dataclass(frozen=True)
class Closed:
    """A developer whose last month is closed, and an end user of theirs with a session."""

    developer: Developer
    tenant: Tenant
    session: str


@pytest.fixture
def world(api: RunningApi) -> Iterator[ApiWorld]:
    world = ApiWorld(api)
    yield world
    world.close()


def run_jobs(dsn: str) -> None:
    as_jobs(dsn, lambda c: close_periods(c, SIGNER, now=datetime.now(UTC)))


@pytest.fixture
def closed(world: ApiWorld, books: Books, dsn: str) -> Closed:
    developer = world.developer()
    made = developer.app()
    ask = {"public_app_id": made["public_app_id"], "external_user_id": "u"}
    session = ok(world.nobody.post("/v1/sessions", json=ask))["session_token"]
    wallet = ok(world.client(session).get("/v1/user/wallet"))
    ok(world.operator.post(f"/v1/admin/wallets/{wallet['id']}/credit-test-balance", json={"amount_usd": "5.00"}))
    someone = tenant_of(books, made)
    account = books.row("select id, owner_id from account where public_id = %s", wallet["id"])
    assert account is not None
    tenant = Tenant(**{**vars_of(someone), "wallet": account[0], "end_user": account[1]})
    for _ in range(5):
        booked = Settlement(tenant, books.held(tenant, 1_000), cost=100, channel=40, platform=60)
        assert books.settle(booked) == [0]
    date_back(books, months_ago(1).starts_at + timedelta(days=2), step=timedelta(hours=9))
    booked = Settlement(tenant, books.held(tenant, 1_000), cost=100, channel=40, platform=60)
    assert books.settle(booked) == [0]
    ok(world.operator.post(f"{PERIODS}/{LAST}/close"), 202)
    run_jobs(dsn)
    return Closed(developer, tenant, session)


def vars_of(tenant: Tenant) -> Json:
    return {name: getattr(tenant, name) for name in tenant.__dataclass_fields__}


def test_an_operator_closes_a_month(closed: Closed, world: ApiWorld, books: Books) -> None:
    """Lost: months can't be closed, or nobody knows who did."""
    period = ok(world.operator.get(f"{PERIODS}/{LAST}"))
    assert (period["status"], period["asked_by"]) == ("closed", "operator")
    listed = ok(world.operator.get(PERIODS))
    assert [each["period"] for each in listed["items"]] == [LAST] and listed["next_period"] == str(months_ago(0))
    assert ok(world.operator.post(f"{PERIODS}/{LAST}/close"), 202)["status"] == "closed"
    assert (
        books.one("select count(*) from audit_log where action = 'period.close_asked' and resource_id = %s", LAST) == 1
    )
    refused(world.operator.post(f"{PERIODS}/{months_ago(0)}/close"), 409, "conflict")
    refused(world.operator.get(f"{PERIODS}/{months_ago(5)}"), 404, "not_found")
    for month in ("2026-13", "now", "2026-1"):
        refused(world.operator.post(f"{PERIODS}/{month}/close"), 400, "invalid_request")
    refused(closed.developer.http.post(f"{PERIODS}/{LAST}/close"), 403, "forbidden")


def test_a_repeated_close_is_answered_as_before(closed: Closed, world: ApiWorld) -> None:
    """Lost: a client that repeats a request closes something twice."""
    headers = {"idempotency-key": "close-once-please"}
    first = world.operator.post(f"{PERIODS}/{LAST}/close", headers=headers)
    again = world.operator.post(f"{PERIODS}/{LAST}/close", headers=headers)
    assert first.status_code == again.status_code == 202 and first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"


def test_a_developer_gets_the_signed_file(closed: Closed, world: ApiWorld) -> None:
    """Lost: what the developer keeps isn't what was signed."""
    reply = closed.developer.http.get(f"{STATEMENTS}/{LAST}.json")
    signed = read_file(reply.content, trusted=frozenset({SIGNER.public_key}))
    assert signed.says["earned_usd"] == "0.00000200" and signed.says["developer_id"] == closed.developer.id
    (listed,) = ok(closed.developer.http.get(STATEMENTS))["items"]
    assert listed == ok(closed.developer.http.get(f"{STATEMENTS}/{LAST}"))
    assert listed["statement"] == signed.says and listed["sha256"] == signed.hash.hex()
    (key,) = ok(world.nobody.get("/.well-known/modelfaucet/statement-keys.json"))["items"]
    assert (key["public_key"], key["key_id"]) == (SIGNER.public_key.hex(), SIGNER.key_id)
    sheet = closed.developer.http.get(f"{STATEMENTS}/{LAST}.csv").text.splitlines()
    assert sheet[0] == "section,period,name,calls,amount_usd" and f"total,{LAST},earned,,0.00000200" in sheet
    assert closed.developer.http.get(f"{STATEMENTS}/{LAST}.pdf").content.startswith(b"%PDF-")


def test_statements_are_their_developer_s(closed: Closed, world: ApiWorld) -> None:
    """Lost: one developer sees what another earns."""
    stranger = world.developer()
    assert ok(stranger.http.get(STATEMENTS))["items"] == []
    for form in ("", ".json", ".csv", ".pdf"):
        refused(stranger.http.get(f"{STATEMENTS}/{LAST}{form}"), 404, "not_found")
        params = {"developer_id": closed.developer.id}
        refused(stranger.http.get(f"{STATEMENTS}/{LAST}{form}", params=params), 404, "not_found")
        assert world.operator.get(f"{STATEMENTS}/{LAST}{form}", params=params).status_code == 200
        refused(world.operator.get(f"{STATEMENTS}/{LAST}{form}"), 400, "invalid_request")
    assert ok(stranger.http.get(STATEMENTS, params={"developer_id": closed.developer.id}))["items"] == []


def test_an_end_user_sees_their_month(closed: Closed, world: ApiWorld) -> None:
    """Lost: a person can't see what they paid in a month."""
    own = world.client(closed.session)
    month = ok(own.get("/v1/user/statement", params={"period": LAST}))
    assert [each["kind"] for each in month["items"]] == ["usage"] * 5 + ["grant"]
    says = month["statement"]["statement"]
    assert (says["opening_usd"], says["granted_usd"], says["spent_usd"], says["closing_usd"]) == (
        "0.00000000", "5.00000000", "0.00001000", "4.99999000",
    )  # fmt: skip
    open_month = ok(own.get("/v1/user/statement", params={"period": str(months_ago(0))}))
    assert [each["kind"] for each in open_month["items"]] == ["usage"] and "statement" not in open_month
    assert len(ok(own.get("/v1/user/statement"))["items"]) == 7
    (listed,) = ok(own.get("/v1/user/statements"))["items"]
    assert listed["statement"] == says
    path = f"/v1/user/statements/{LAST}"
    assert read_file(own.get(f"{path}.json").content, trusted=frozenset({SIGNER.public_key})).says == says
    assert f"total,{LAST},spent,,0.00001000" in own.get(f"{path}.csv").text
    assert own.get(f"{path}.pdf").content.startswith(b"%PDF-")
    refused(own.get(f"/v1/user/statements/{months_ago(0)}.json"), 404, "not_found")
    refused(own.get("/v1/user/statement", params={"period": "soon"}), 400, "invalid_request")


# ── the command line ──


@pytest.fixture
def faucet(api: RunningApi, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command; gives its exit code and what it printed."""
    monkeypatch.setenv("ADMIN_TOKEN", api.config.admin_token.reveal())
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        try:
            main(partial(app, list(words), standalone_mode=True))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return run


def test_a_month_is_proved_offline(closed: Closed, api: RunningApi, faucet: Any, tmp_path: Path) -> None:
    """Lost: the promise that nobody has to believe us."""
    to = ("--api", api.base_url)
    mine = (*to, "--token", closed.developer.token)
    assert faucet("periods", "list", *to)[0] == 0
    assert "closed" in faucet("periods", "close", LAST, *to)[1]
    assert faucet("statement", "list", *mine)[0] == 0
    for words in (("get", LAST), ("get", LAST, "--as", "pdf"), ("usage", LAST, "--out", "month.csv")):
        code, told = faucet("statement", *words, *mine)
        assert code == 0, told
    code, told = faucet("statement", "keys", "--json", *to)
    Path("keys.json").write_text(told)
    for name in ("usage", "revenue", "payouts"):
        code, told = faucet("export", name, "--from", f"{LAST}-01", *mine)
        assert code == 0 and Path(f"{name}.csv").exists(), told
    code, told = faucet("export", "usage", "--as", "parquet", *to)
    assert code == 0 and Path("usage.parquet").read_bytes()[:4] == b"PAR1", told
    statement = f"statement-{LAST}.json"
    verify = ("statement", "verify", statement, "--key", "keys.json", "--usage", "month.csv")
    code, told = faucet(*verify)
    assert code == 0 and "5 lines of usage" in told
    assert faucet("statement", "verify", statement, "--key", SIGNER.public_key.hex())[0] == 0
    code, told = faucet("statement", "verify", statement)
    assert code == 0 and "Trust it if it is published" in told
    usage = Path("month.csv").read_text()
    Path("month.csv").write_text(usage.replace("0.00000040", "0.00000050", 1))
    code, told = faucet(*verify)
    assert code == 1 and "line 2" in told and "was changed" in told
    content = Path(statement).read_text()
    Path(statement).write_text(content.replace('"earned_usd":"0.00000200"', '"earned_usd":"0.00000300"'))
    code, told = faucet(*verify, "--json")
    assert code == 1 and "the statement was changed" in json.loads(told)["reasons"][0]
    code, told = faucet("statement", "verify", statement, "--key", "no-key")
    assert code == 1
    assert faucet("statement", "get", "2020-01", *mine)[0] == 1 and not Path("statement-2020-01.json").exists()


# ── print ──


def _font(letters: str, path: Path) -> Path:
    """A font that has these letters, as boxes."""
    pen = TTGlyphPen(None)
    for step, at in enumerate(((0, 0), (0, 800), (600, 800), (600, 0))):
        pen.lineTo(at) if step else pen.moveTo(at)
    pen.closePath()
    box = pen.glyph()
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):04X}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(names, box))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (700, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Own", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_a_chinese_name_is_printed_or_shown_as_its_codes(closed: Closed, tmp_path: Path) -> None:
    """Lost: a printed statement fails, or has question marks where its developer's name was."""
    says = read_file(closed.developer.http.get(f"{STATEMENTS}/{LAST}.json").content).says
    signed = SIGNER.sign(says | {"developer_name": "客户有限公司"})
    plain, printed = statement_pdf(signed), statement_pdf(signed, font=_font("客户有限公司 ", tmp_path / "own.ttf"))
    assert plain.startswith(b"%PDF-") and b"FontFile2" not in plain
    assert b"FontFile2" in printed
    assert statement_pdf(signed) == plain
    with pytest.raises(Fault, match="STATEMENT_FONT"):
        statement_pdf(signed, font=tmp_path / "none.ttf")
