"""The vault's mechanism: what is sealed opens in its place with its key, and never otherwise."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from faucet.kit.config import Config, load_config
from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret
from faucet.vault.reveal.kek import KekFailed, Keks, LocalKek, keks_of
from faucet.vault.reveal.ring import KEYS_MAX, Ring, Sealed, Unopenable, WrappedKey, open_sealed, wrapping_context
from faucet.vault.seal import Place, PublicKey, mask, seal

pytestmark = pytest.mark.anyio

PLAIN = "sk-test-" + "canary" * 4
PLACE = Place(
    row_id=uuid7(),
    owner="end_user",
    developer_id=uuid7(),
    app_id=uuid7(),
    end_user_id=uuid7(),
    provider="openai_compatible",
    base_url="https://llm.example.com/v1",
)


def fresh() -> tuple[X25519PrivateKey, PublicKey]:
    """A key pair of its own."""
    private = X25519PrivateKey.generate()
    return private, PublicKey(uuid7(), private.public_key().public_bytes_raw())


def test_what_is_sealed_opens_in_its_place() -> None:
    """Without this, every stored key would be lost."""
    private, public = fresh()
    for plain in (PLAIN, "x" * 8, "y" * 4096):
        sealed = seal(Secret(plain), public, PLACE)
        assert plain.encode() not in sealed
        assert open_sealed(sealed, public.id, private, PLACE).reveal() == plain
    assert seal(Secret(PLAIN), public, PLACE) != seal(Secret(PLAIN), public, PLACE)


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    """Lost: whoever can write to the database could change a secret bit by bit and watch what happens."""
    private, public = fresh()
    sealed = seal(Secret(PLAIN), public, PLACE)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(Unopenable):
            open_sealed(bytes(changed), public.id, private, PLACE)
    for length in range(len(sealed)):
        with pytest.raises(Unopenable):
            open_sealed(sealed[:length], public.id, private, PLACE)
    with pytest.raises(Unopenable):
        open_sealed(sealed + b"\0", public.id, private, PLACE)


@pytest.mark.parametrize(
    "moved",
    [
        replace(PLACE, row_id=uuid7()),
        replace(PLACE, table="app_signing_key"),
        replace(PLACE, owner="developer"),
        replace(PLACE, developer_id=uuid7()),
        replace(PLACE, app_id=uuid7()),
        replace(PLACE, app_id=None),
        replace(PLACE, end_user_id=uuid7()),
        replace(PLACE, end_user_id=None),
        replace(PLACE, app_id=PLACE.end_user_id, end_user_id=PLACE.app_id),
        replace(PLACE, provider="openai"),
        replace(PLACE, base_url="https://evil.example.com/v1"),
        replace(PLACE, base_url=None),
        replace(PLACE, base_url=""),
        replace(PLACE, provider="openai_compatiblehttps://llm.example.com/v1", base_url=""),
    ],
)
def test_a_moved_row_does_not_open(moved: Place) -> None:
    """Lost: a copied row would hand one owner's secret to another, or send it to another's server."""
    private, public = fresh()
    sealed = seal(Secret(PLAIN), public, PLACE)
    with pytest.raises(Unopenable):
        open_sealed(sealed, public.id, private, moved)


def test_another_key_does_not_open() -> None:
    """Lost: a row would open with a key that was thought to be gone, or under a false key id."""
    private, public = fresh()
    other_private, other_public = fresh()
    sealed = seal(Secret(PLAIN), public, PLACE)
    for key_id, key in ((public.id, other_private), (other_public.id, private), (other_public.id, other_private)):
        with pytest.raises(Unopenable):
            open_sealed(sealed, key_id, key, PLACE)


def test_a_failure_says_nothing_of_the_secret() -> None:
    """Lost: an error in a log would help to guess."""
    private, public = fresh()
    row = Sealed(PLACE, seal(Secret(PLAIN), public, PLACE), WrappedKey(public.id, b"wrapped" * 8, "local:x"))
    with pytest.raises(Unopenable) as refused:
        open_sealed(row.sealed, public.id, private, replace(PLACE, provider="openai"))
    assert str(refused.value) == f"credential {PLACE.row_id} does not open"
    assert refused.value.__cause__ is None
    assert row.sealed.hex() not in repr(row) and repr(row.sealed) not in repr(row) and "wrappedw" not in repr(row)


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("sk-proj-abcdefgh1234", "sk-...1234"),
        ("AIzaSyD-abcdef9876", "AIz...9876"),
        ("gsk_aaaabbbbcccc", "gsk...cccc"),
        ("12345678", "123...5678"),
        ("sk-12345", "sk-...2345"),
    ],
)
def test_masks_are_as_clients_know_them(secret: str, shown: str) -> None:
    """Lost: people could not tell their keys apart, or could see too much of them."""
    assert mask(Secret(secret)) == shown


async def wrapped_by(kek: LocalKek, private: X25519PrivateKey, key_id: UUID) -> WrappedKey:
    """A private key as the database would have it."""
    return WrappedKey(key_id, await kek.wrap(private.private_bytes_raw(), wrapping_context(key_id)), kek.name)


async def test_a_ring_opens_with_wrapped_keys() -> None:
    """Lost: a gateway could not use what the API sealed."""
    kek = LocalKek(Secret("a" * 40))
    private, public = fresh()
    row = Sealed(PLACE, seal(Secret(PLAIN), public, PLACE), await wrapped_by(kek, private, public.id))
    ring = Ring(Keks(kek))
    for _ in range(2):
        assert (await ring.reveal(row)).reveal() == PLAIN


async def test_a_ring_keeps_a_bounded_number_of_keys() -> None:
    """Lost: a process that lives through many rotations keeps every private key it ever saw."""
    kek = LocalKek(Secret("a" * 40))
    ring = Ring(Keks(kek))
    for _ in range(KEYS_MAX + 5):
        private, public = fresh()
        await ring.unwrap(await wrapped_by(kek, private, public.id))
    assert len(ring._keys) == KEYS_MAX


async def test_a_wrapped_key_is_bound_to_its_row_and_its_kek() -> None:
    """Lost: whoever can write to the database could give a row another private key."""
    kek, other = LocalKek(Secret("a" * 40)), LocalKek(Secret("b" * 40))
    private, public = fresh()
    row = await wrapped_by(kek, private, public.id)
    assert private.private_bytes_raw() not in row.wrapped
    assert kek.name != other.name and kek.name == LocalKek(Secret("a" * 40)).name
    for keks, changed in (
        (Keks(kek), replace(row, id=uuid7())),
        (Keks(kek), replace(row, wrapped=row.wrapped[:-1] + bytes([row.wrapped[-1] ^ 1]))),
        (Keks(kek), replace(row, wrapped=b"")),
        (Keks(other), row),
        (Keks(other), replace(row, kek=other.name)),
    ):
        with pytest.raises(KekFailed):
            await Ring(keks).unwrap(changed)


@pytest.fixture
def settings(config: Config) -> dict[str, str]:
    """The least that settings need, for changing them."""
    return {
        "FAUCET_DATA": str(config.faucet_data),
        "SECRET_ENCRYPTION_KEY": "3f9-Zk" * 8,
    }


async def test_settings_choose_the_kek(settings: dict[str, str]) -> None:
    """Lost: a change of the setting would leave everything that was wrapped before closed for good."""
    derived = keks_of(load_config(settings))
    own = keks_of(load_config(settings | {"KEK_LOCAL_KEY": "m2-Qw" * 8}))
    assert own.current.name != derived.current.name
    assert own.named(derived.current.name).name == derived.current.name
    newer = keks_of(load_config(settings | {"KEK_LOCAL_KEY": "n3-Er" * 8, "KEK_LOCAL_KEY_PREVIOUS": "m2-Qw" * 8}))
    assert newer.named(own.current.name) is not newer.current
    with pytest.raises(KekFailed, match="don't have any more"):
        derived.named(newer.current.name)
    wrapped = await own.current.wrap(b"k" * 32, b"context")
    assert await newer.named(own.current.name).unwrap(wrapped, b"context") == b"k" * 32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"KEK_PROVIDER": "aws_kms"}, "settings are missing"),
        ({"KEK_PROVIDER": "transit"}, "settings are missing"),
        ({"KEK_PROVIDER": "transit", "KEK_TRANSIT_URL": "http://127.0.0.1:8200"}, "KEK_TRANSIT_TOKEN"),
    ],
)
def test_half_a_setting_is_refused(settings: dict[str, str], change: dict[str, str], said: str) -> None:
    """Lost: an operator believes that a service keeps the key, and it is a key on disk."""
    config = load_config(settings | change)
    with pytest.raises(KekFailed, match=said):
        keks_of(config)
