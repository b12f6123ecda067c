"""What an app's change does to processes that don't know each other: two APIs and a gateway over one database."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx2
import pytest
from gateway_world import CHAT, EndUser, Program, StartGateway, World, ask, chat, request, wait_for

ADMIN = "operator-bearer-of-two-apis-0123456789"
_API = """
import asyncio, os
import uvloop
from faucet.api.app import run
from faucet.kit.config import load_config
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(run(load_config(), os.environ["TEST_DSN"], on_ready=lambda: print("ready", flush=True)))
"""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def apis(world: World, tmp_path: Path) -> Iterator[list[httpx2.Client]]:
    """Clients of two API processes."""
    programs, clients = [], []
    for number in range(2):
        port = _free_port()
        settings = {
            "TEST_DSN": world.dsn,
            "PORT_API": str(port),
            "ADMIN_TOKEN": ADMIN,
            "FAUCET_DATA": str(tmp_path / "data"),
        }
        programs.append(Program(["-c", _API], tmp_path / f"api-{number}.log", settings))
        clients.append(httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10))
    yield clients
    for client in clients:
        client.close()
    for program in programs:
        program.stop()


@pytest.fixture
def end_user(world: World) -> EndUser:
    """An end user of an app of its own, so that other tests' apps stay as they are."""
    tenant = world.books.tenant()
    return world.end_user(app_of=tenant)


def _public_id(world: World, app: UUID) -> str:
    return str(world.books.one("select public_app_id from app where id = %s", app))


def test_a_disabled_app_is_off_everywhere_within_five_seconds(
    world: World, apis: list[httpx2.Client], start_gateway: StartGateway, end_user: EndUser
) -> None:
    """Lost: what a developer switches off goes on spending where another process remembers it."""
    gateway = start_gateway()
    first, second = apis
    bearer = {"authorization": f"Bearer {end_user.bearer}"}
    staff = {"authorization": f"Bearer {ADMIN}"}
    public_id = _public_id(world, end_user.tenant.app)
    assert ask(gateway, end_user.bearer, chat()).status == 200
    assert [api.get("/v1/user/wallet", headers=bearer).status_code for api in apis] == [200, 200]

    gone = first.patch(f"/v1/developer/apps/{public_id}", json={"status": "disabled"}, headers=staff)
    assert gone.status_code == 200, gone.text
    began = time.monotonic()
    wait_for(lambda: ask(gateway, end_user.bearer, chat()).status == 403, seconds=5)
    for api in (second, first):
        reply = api.get("/v1/user/wallet", headers=bearer)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "disabled")
        body = {"public_app_id": public_id, "external_user_id": "somebody"}
        assert api.post("/v1/sessions", json=body).status_code == 403
    assert time.monotonic() - began < 5
    assert ask(gateway, end_user.bearer, chat()).code == "disabled"

    back = second.patch(f"/v1/developer/apps/{public_id}", json={"status": "active"}, headers=staff)
    assert back.status_code == 200
    wait_for(lambda: ask(gateway, end_user.bearer, chat()).status == 200, seconds=5)


def test_pages_of_active_apps_may_call_gateways(world: World, start_gateway: StartGateway, end_user: EndUser) -> None:
    """Lost: an app's own pages can't ask in production, or those of a disabled app, or of anybody, can."""
    settings = {
        name: secrets.token_urlsafe(48) for name in ("SECRET_ENCRYPTION_KEY", "ADMIN_TOKEN", "DEVELOPER_ADMIN_TOKEN")
    } | {
        "MODELFAUCET_ENV": "production",
        "API_CORS_ORIGINS": "https://ours.example",
        "GATEWAY_CORS_ORIGINS": "https://ours.example",
    }
    gateway = start_gateway(mock_url="", **settings)  # production has no mock provider
    page = f"https://{end_user.tenant.app.hex}.example"

    def allowed(origin: str) -> bool:
        headers = {"origin": origin, "access-control-request-method": "POST"}
        return request(gateway, "OPTIONS", CHAT, None, headers).headers.get("access-control-allow-origin") == origin

    change = "update app set allowed_origins = %s, status = %s where id = %s"
    assert allowed("https://ours.example") and not allowed(page)
    world.books.rows(change, [page], "active", end_user.tenant.app)
    world.announce()
    wait_for(lambda: allowed(page), seconds=6)
    assert not allowed(page + ".evil.example") and not allowed("null")
    world.books.rows(change, [page], "disabled", end_user.tenant.app)
    world.announce()
    wait_for(lambda: not allowed(page), seconds=6)
    assert allowed("https://ours.example")
