"""A key-encryption key in AWS KMS, as moto's server plays it: wrapping, unwrapping, and when it says no."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from books import Books
from moto_world import moto_environment, moto_server, packages_of

from faucet.kit.config import load_config
from faucet.stack.keys import ensure_vault_key, owner_tx, rotate_vault
from faucet.vault.reveal import rows
from faucet.vault.reveal.aws_kms import AwsKek
from faucet.vault.reveal.kek import KekFailed, keks_of
from faucet.vault.reveal.ring import Ring

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def kms() -> Iterator[str]:
    """The address of a KMS."""
    folder = moto_environment()
    packages = packages_of(folder)
    sys.path.append(packages)  # last: only what we have not ourselves comes from there
    try:
        with moto_server(folder) as address:
            yield address
    finally:
        sys.path.remove(packages)


@pytest.fixture
def client(kms: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A client of it, as AWS's own settings make one."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_DEFAULT_REGION", "eu-central-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", str(tmp_path / "none")),
        ("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none")),
    ):
        monkeypatch.setenv(name, value)
    import boto3

    made = boto3.client("kms", endpoint_url=kms)
    yield made
    made.close()


@pytest.fixture
def key_id(client: Any) -> str:
    """A symmetric key."""
    made: str = client.create_key(Description="test")["KeyMetadata"]["KeyId"]
    return made


async def test_kms_wraps_and_unwraps(kms: str, key_id: str, client: Any) -> None:
    """Lost: what was wrapped can't be unwrapped; or by anybody, for any row."""
    key = AwsKek(key_id, endpoint_url=kms)
    wrapped = await key.wrap(b"k" * 32, b"row one")
    assert b"k" * 8 not in wrapped and wrapped != await key.wrap(b"k" * 32, b"row one")
    assert await key.unwrap(wrapped, b"row one") == b"k" * 32
    with pytest.raises(KekFailed, match="did not decrypt: InvalidCiphertextException"):
        await key.unwrap(wrapped, b"row two")
    with pytest.raises(KekFailed, match="did not decrypt"):
        await key.unwrap(b"no ciphertext of theirs at all", b"row one")
    client.create_alias(AliasName="alias/modelfaucet", TargetKeyId=key_id)
    alias = AwsKek("alias/modelfaucet", endpoint_url=kms)
    assert await alias.unwrap(await alias.wrap(b"p" * 32, b"row"), b"row") == b"p" * 32
    assert alias.name == "aws_kms:alias/modelfaucet"


async def test_a_kms_that_refuses_is_said_to(kms: str, key_id: str, client: Any) -> None:
    """Lost: an operator sees a traceback, or what was to be wrapped in a log."""
    with pytest.raises(KekFailed, match="did not encrypt: NotFoundException") as refused:
        await AwsKek("00000000-0000-0000-0000-000000000000", endpoint_url=kms).wrap(b"secret" * 5, b"row")
    assert "secret" not in str(refused.value) and refused.value.__cause__ is None
    with pytest.raises(KekFailed, match="did not encrypt: "):
        await AwsKek(key_id, endpoint_url=kms).wrap(b"k" * 5_000, b"row")


async def test_a_kms_out_of_reach_is_said_to_be(client: Any) -> None:
    """Lost: a gateway hangs on a service that is gone."""
    gone = AwsKek("any", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(KekFailed, match="did not encrypt: EndpointConnectionError"):
        await gone.wrap(b"k" * 32, b"row")
    with pytest.raises(KekFailed, match="can't be used"):
        AwsKek("any", endpoint_url="not an address")


async def test_keys_move_to_kms_and_back(kms: str, key_id: str, dsn: str, tmp_path: Path, books: Books) -> None:
    """Lost: an installation that began with a key in its settings can never use KMS, or never leave it."""
    env = {"FAUCET_DATA": str(tmp_path / "data")}
    service = {"KEK_AWS_KEY_ID": key_id, "KEK_AWS_ENDPOINT_URL": kms}
    local = load_config(env)
    remote = load_config(env | service | {"KEK_PROVIDER": "aws_kms"})
    back = load_config(env | service)
    await ensure_vault_key(dsn, local)
    for config, name in ((remote, f"aws_kms:{key_id}"), (back, keks_of(local).current.name)):
        report = await rotate_vault(dsn, config, new_key=False, batch=10, say=lambda *_: None)
        assert report.rewrapped == 1 and books.one("select kek from vault_key") == name
        async with owner_tx(dsn) as t:
            ((key, public),) = await rows.lock_keys(t)
        private = await Ring(keks_of(config)).unwrap(key)
        assert private.public_key().public_bytes_raw() == public
