"""Key-encryption keys that a service keeps: wrapping, unwrapping, and what happens when the service says no."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from books import Books
from fakes.transit import TOKEN, Transit

from faucet.kit.config import load_config
from faucet.kit.secret import Secret
from faucet.stack.keys import ensure_vault_key, owner_tx, rotate_vault
from faucet.vault.reveal import rows
from faucet.vault.reveal.kek import KekFailed, keks_of
from faucet.vault.reveal.ring import Ring
from faucet.vault.reveal.transit import TransitKek

pytestmark = pytest.mark.anyio


@pytest.fixture
def transit() -> Iterator[Transit]:
    """A running transit engine."""
    with Transit() as running:
        yield running


def kek(transit: Transit, *, token: str = TOKEN, mount: str = "transit", key: str = "modelfaucet") -> TransitKek:
    """The key of that engine."""
    return TransitKek(transit.url, Secret(token), mount=mount, key=key)


async def test_a_transit_engine_wraps_and_unwraps(transit: Transit) -> None:
    """Lost: what was wrapped can't be unwrapped, or by anybody for any row."""
    key = kek(transit)
    wrapped = await key.wrap(b"k" * 32, b"row one")
    assert wrapped.startswith(b"vault:v1:") and b"k" * 8 not in wrapped
    assert await key.unwrap(wrapped, b"row one") == b"k" * 32
    with pytest.raises(KekFailed, match="status 400"):
        await key.unwrap(wrapped, b"row two")
    assert key.name == "transit:transit/modelfaucet"


async def test_a_transit_engine_that_refuses_is_said_to(transit: Transit) -> None:
    """Lost: an operator sees a traceback, or the token in a log."""
    for broken, said in (
        (kek(transit, token="hvs.wrong"), "status 403"),
        (kek(transit, mount="other"), "status 404"),
        (kek(transit, key="other"), "status 404"),
    ):
        with pytest.raises(KekFailed, match=said) as refused:
            await broken.wrap(b"k" * 32, b"row")
        assert "hvs." not in str(refused.value)
    transit.sealed = True
    with pytest.raises(KekFailed, match="status 503"):
        await kek(transit).wrap(b"k" * 32, b"row")


async def test_a_transit_engine_out_of_reach_is_said_to_be() -> None:
    """Lost: a gateway hangs on a service that is gone."""
    with Transit() as gone:
        key = kek(gone)
    with pytest.raises(KekFailed, match="can't be reached"):
        await key.wrap(b"k" * 32, b"row")
    with pytest.raises(KekFailed, match="KEK_TRANSIT_URL"):
        TransitKek("ftp://127.0.0.1", Secret(TOKEN), mount="transit", key="modelfaucet")


async def test_keys_move_to_a_service_and_back(transit: Transit, dsn: str, tmp_path: Path, books: Books) -> None:
    """Lost: an installation that began with a key in its settings can never use a service, or never leave it."""
    env = {"FAUCET_DATA": str(tmp_path / "data")}
    service = {"KEK_TRANSIT_URL": transit.url, "KEK_TRANSIT_TOKEN": TOKEN}
    local = load_config(env)
    remote = load_config(env | service | {"KEK_PROVIDER": "transit"})
    back = load_config(env | service)
    await ensure_vault_key(dsn, local)
    assert books.one("select kek from vault_key").startswith("local:")
    for config, name in ((remote, "transit:transit/modelfaucet"), (back, keks_of(local).current.name)):
        report = await rotate_vault(dsn, config, new_key=False, batch=10, say=lambda *_: None)
        assert report.rewrapped == 1 and books.one("select kek from vault_key") == name
        async with owner_tx(dsn) as t:
            ((key, public),) = await rows.lock_keys(t)
        private = await Ring(keks_of(config)).unwrap(key)
        assert private.public_key().public_bytes_raw() == public
    assert transit.calls == ["encrypt", "decrypt", "decrypt"]


async def test_a_burst_unwraps_once(transit: Transit, dsn: str, tmp_path: Path) -> None:
    """Lost: after a restart every request in flight asks the service at the same time."""
    config = load_config(
        {
            "FAUCET_DATA": str(tmp_path / "data"),
            "KEK_PROVIDER": "transit",
            "KEK_TRANSIT_URL": transit.url,
            "KEK_TRANSIT_TOKEN": TOKEN,
        }
    )
    await ensure_vault_key(dsn, config)
    async with owner_tx(dsn) as t:
        ((key, _),) = await rows.lock_keys(t)
    ring = Ring(keks_of(config))
    found = await asyncio.gather(*(ring.unwrap(key) for _ in range(20)))
    assert len({id(each) for each in found}) == 1
    assert transit.calls == ["encrypt", "decrypt"]
