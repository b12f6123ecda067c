"""Who answers, with whose key, and who pays whom: over real gateways, the mock provider and the books."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from books import E8
from gateway_world import Charged, Gateway, Mock, Reply, World, ask, chat, hold_of, wait_for
from keys_world import SETTINGS, KeysWorld


@pytest.fixture(scope="module")
def keys(world: World) -> KeysWorld:
    return KeysWorld(world)


@pytest.fixture(scope="module")
def opener(keys: KeysWorld, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that can open keys."""
    folder = tmp_path_factory.mktemp("opener")
    running = Gateway(keys.world.dsn, mock.url, folder, PROVIDER_TIMEOUT_MS=2000, **SETTINGS)
    yield running
    running.stop()


def answered(reply: Reply, mode: str) -> dict[str, Any]:
    """The money note of a reply that went this way."""
    assert reply.status == 200, reply.body
    note: dict[str, Any] = reply.json["modelfaucet"] if "modelfaucet" in reply.json else {}
    assert note["route_mode"] == mode, note
    return note


@pytest.mark.parametrize("stream", [False, True])
def test_a_byok_answer_costs_nothing_here_and_needs_no_money(
    opener: Gateway, keys: KeysWorld, world: World, mock: Mock, stream: bool
) -> None:
    """Lost: somebody with a key of their own is charged, or refused for an empty wallet."""
    app = keys.app()
    poor = keys.end_user(app, 0)
    secret = f"sk-good-{uuid4().hex}"
    key = keys.key(poor, secret=secret)
    if stream:
        reply = ask(opener, poor.bearer, chat(stream=True, stream_options={"include_usage": True}))
        note = reply.events[-2]["modelfaucet"]
        assert note["route_mode"] == "byok"
    else:
        reply = ask(opener, poor.bearer, chat())
        note = answered(reply, "byok")
    assert (note["price_usd"], note["fee_usd"], note["wallet_balance_usd"]) == ("0.00000000",) * 3
    assert mock.last()["headers"]["authorization"] == "sha256:" + sha256(secret.encode()).hexdigest()[:12]
    event = world.event(hold_of(reply))
    assert event is not None and event["payer"] == 2 and event["output_tokens"] > 0
    assert [event[f"{part}_e8"] for part in ("cost", "retail", "channel", "platform", "held")] == [0] * 5
    assert world.transfers(hold_of(reply)) == {} and world.open_holds(poor) == []
    wait_for(lambda: keys.told(key) == (1, None, False))


def test_an_explicit_fee_is_all_that_a_byok_answer_costs(opener: Gateway, keys: KeysWorld, world: World) -> None:
    """Lost: a markup hides in an answer that the end user's own key paid for; or the developer gets no share of it."""
    app = keys.app(fee="0.00100000")
    user = keys.end_user(app, 250_000)
    keys.key(user)
    reply = ask(opener, user.bearer, chat(mock={"tokens": 400}))
    note = answered(reply, "byok")
    assert (note["price_usd"], note["fee_usd"], note["wallet_balance_usd"]) == (
        "0.00100000",
        "0.00100000",
        "0.00150000",
    )
    event = world.event(hold_of(reply))
    assert event is not None
    assert (event["cost_e8"], event["retail_e8"], event["channel_e8"], event["platform_e8"]) == (
        0,
        100_000,
        40_000,
        60_000,
    )
    assert world.transfers(hold_of(reply)) == {2: 40_000, 3: 60_000}
    assert ask(opener, user.bearer, chat()).status == 200
    broke = ask(opener, user.bearer, chat())
    assert (broke.status, broke.code) == (402, "insufficient_balance")


def test_a_fixed_price_is_no_bound_of_a_byok_fee(opener: Gateway, keys: KeysWorld, world: World) -> None:
    """Lost: whoever brings a key is told that the price, which isn't theirs, does not pay for their request."""
    app = keys.app(routes="byok_first")
    pricing = {"mode": "fixed_price", "fixed_price_usd": "0.00001", "explicit_gateway_fee_usd": "0.001"}
    world.books.rows("update feature set pricing = %s where id = %s", json.dumps(pricing), app.feature)
    world.announce()
    for lets_go in (False, True):
        user = keys.end_user(app)
        keys.key(user, lets_go=lets_go)
        note = answered(ask(opener, user.bearer, chat("word " * 2000)), "byok")
        assert (note["price_usd"], note["fee_usd"]) == ("0.00100000", "0.00100000")
    nobodys = ask(opener, keys.end_user(app).bearer, chat("word " * 2000))
    assert (nobodys.status, nobodys.code) == (400, "invalid_request")


def test_a_developer_key_earns_cost_and_share(opener: Gateway, keys: KeysWorld, world: World) -> None:
    """Lost: the developer pays the provider and gets nothing back."""
    app = keys.app(routes="developer_key_first")
    user = keys.end_user(app)
    keys.key(app)
    before = world.books.posted(app.earnings), world.books.posted(app.cost)
    reply = ask(opener, user.bearer, chat())
    note = answered(reply, "developer_key")
    event = world.event(hold_of(reply))
    assert event is not None and event["payer"] == 1
    due = Charged(event["input_tokens"], event["output_tokens"])
    assert (event["cost_e8"], event["retail_e8"], event["channel_e8"]) == (due.cost, due.retail, due.channel)
    assert world.transfers(hold_of(reply)) == due.transfers
    assert world.books.posted(app.earnings) - before[0] == due.cost + due.channel
    assert world.books.posted(app.cost) == before[1]
    assert note["price_usd"] == f"{due.retail / E8:.8f}"
    assert "fee_usd" not in note


def test_the_policy_orders_payers(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: another pays than the developer's policy says."""
    for routes, has_own, has_developer, mode in (
        ("byok_first", True, True, "byok"),
        ("byok_first", False, True, "developer_key"),
        ("byok_first", False, False, "platform"),
        ("local_first", True, False, "byok"),
        ("developer_key_first", True, True, "developer_key"),
        ("platform_pool", True, True, "platform"),
        (["platform_pool", "end_user_byok"], True, True, "platform"),
        ("privacy_first", True, True, "byok"),
    ):
        app = keys.app(routes=routes)
        user = keys.end_user(app)
        if has_own:
            keys.key(user)
        if has_developer:
            keys.key(app)
        answered(ask(opener, user.bearer, chat()), mode)
    for routes in ("local_only", "privacy_first"):
        refused = ask(opener, keys.end_user(keys.app(routes=routes)).bearer, chat())
        assert (refused.status, refused.code) == (503, "no_available_route")


def test_a_failing_key_falls_over_only_where_its_owner_lets_go(opener: Gateway, keys: KeysWorld, world: World) -> None:
    """Lost: an end user whose key fails is charged without having agreed; or is refused although they had."""
    for word, status, lets_go in (
        ("wrong", 502, False),
        ("barred", 502, False),
        ("broken", 502, False),
        ("limited", 429, False),
        ("wrong", 200, True),
        ("broken", 200, True),
        ("limited", 200, True),
    ):
        app = keys.app(routes="byok_first")
        user = keys.end_user(app)
        key = keys.key(user, word, lets_go=lets_go)
        reply = ask(opener, user.bearer, chat())
        assert reply.status == status, (word, reply.body)
        if lets_go:
            answered(reply, "platform")
        else:
            attempts = reply.json["error"]["details"]["attempts"]
            assert {(one["provider"], one["route_mode"]) for one in attempts} == {("mock", "byok")}
            assert world.events_of(user) == []
            wait_for(lambda user=user: not world.open_holds(user))  # type: ignore[misc]
        if word in ("wrong", "barred"):
            code = {"wrong": "http_401", "barred": "http_403"}[word]
            wait_for(lambda key=key, code=code: keys.told(key) == (0, code, True))  # type: ignore[misc]


def test_the_next_key_of_the_same_owner_is_tried(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: who brought a spare key is refused when the first is revoked."""
    app = keys.app(routes="byok_first")
    user = keys.end_user(app, 0)
    bad, spare = keys.key(user, "wrong", priority=1), keys.key(user, priority=2)
    for _ in range(3):
        answered(ask(opener, user.bearer, chat()), "byok")
    wait_for(lambda: keys.told(spare)[0] == 3)
    # Refused once, it goes last from then on.
    assert keys.told(bad) == (0, "http_401", True)


def test_keys_share_traffic_by_weight(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: a developer's second account idles while the first runs into its limit."""
    app = keys.app(routes="developer_key_first")
    user = keys.end_user(app)
    heavy, light = keys.key(app, weight=9), keys.key(app, weight=1, any_app=True)
    for _ in range(60):
        answered(ask(opener, user.bearer, chat(mock={"tokens": 1})), "developer_key")
    wait_for(lambda: keys.told(heavy)[0] + keys.told(light)[0] == 60)
    assert keys.told(heavy)[0] > 40 and keys.told(light)[0] >= 0


def test_models_allowed_bind_a_key(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: a key pays for models that its owner excluded."""
    app = keys.app(routes="byok_first")
    user = keys.end_user(app)
    keys.key(user, models=("mock-large",))
    answered(ask(opener, user.bearer, chat(model="mock-large")), "byok")
    answered(ask(opener, user.bearer, chat(model="mock-small")), "platform")
    answered(ask(opener, user.bearer, chat(model="auto")), "byok")


def becomes(gateway: Gateway, bearer: str, mode: str) -> None:
    """A change of keys that was just made reaches the gateway."""
    wait_for(lambda: ask(gateway, bearer, chat()).json["modelfaucet"]["route_mode"] == mode, 5)


def test_a_key_is_never_used_for_somebody_else(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: one end user's provider account pays for another's requests, or a developer's for another developer's."""
    app, other = keys.app(routes="byok_first"), keys.app(routes="byok_first")
    owner, neighbour, stranger = keys.end_user(app), keys.end_user(app), keys.end_user(other)
    keys.key(owner)
    answered(ask(opener, owner.bearer, chat()), "byok")
    answered(ask(opener, neighbour.bearer, chat()), "platform")
    answered(ask(opener, stranger.bearer, chat()), "platform")
    key = keys.key(app, any_app=True)
    becomes(opener, neighbour.bearer, "developer_key")
    answered(ask(opener, stranger.bearer, chat()), "platform")
    answered(ask(opener, owner.bearer, chat()), "byok")
    keys.forget(key)
    keys.key(app)  # for that app only
    becomes(opener, neighbour.bearer, "developer_key")
    answered(ask(opener, stranger.bearer, chat()), "platform")


def test_a_disabled_key_is_not_used_any_more(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: a key that its owner took back goes on paying."""
    app = keys.app(routes="byok_first")
    user = keys.end_user(app)
    key = keys.key(user)
    answered(ask(opener, user.bearer, chat()), "byok")
    keys.forget(key)
    becomes(opener, user.bearer, "platform")


def test_a_free_quota_never_pays_for_a_developers_key(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: a developer whose own upstream reports what they like earns it from the platform's gift."""
    app = keys.app(routes="developer_key_first")
    keys.books.rows("update developer set free_quota_month_max_e8 = %s where id = %s", 100 * E8, app.developer)
    pricing = {"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": 4000, "free_quota": {"usd": "1.00"}}
    keys.books.rows(
        "update feature set pricing = %s, free_quota_e8 = %s where id = %s", json.dumps(pricing), E8, app.feature
    )
    keys.world.announce()
    user = keys.end_user(app)
    assert answered(ask(opener, user.bearer, chat()), "platform")["paid_by"] == "free_quota"
    keys.key(app)
    becomes(opener, user.bearer, "developer_key")
    assert "paid_by" not in answered(ask(opener, user.bearer, chat()), "developer_key")


def test_hints_must_be_allowed(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: a client chooses whose key pays against the developer's policy; or can't ask for what it allows."""
    app = keys.app(routes="byok_first")
    user = keys.end_user(app)
    keys.key(user)
    keys.key(app)

    def hinted(**metadata: object) -> Reply:
        return ask(opener, user.bearer, chat(metadata=metadata))

    answered(hinted(route_mode="developer_key"), "developer_key")
    answered(hinted(route_mode="platform"), "platform")
    answered(hinted(route_preference=["platform_pool", "end_user_byok"]), "platform")
    answered(hinted(route_preference="developer_key_first"), "developer_key")
    answered(hinted(route_preference=["local", "developer_key"]), "developer_key")  # local isn't this policy's
    only = keys.end_user(keys.app(routes="platform_pool"))
    keys.key(only)
    for metadata in ({"route_mode": "byok"}, {"route_mode": "developer_key"}, {"route_preference": ["end_user_byok"]}):
        refused = ask(opener, only.bearer, chat(metadata=metadata))
        assert (refused.status, refused.code) == (403, "forbidden")
    for metadata in (
        {"route_mode": "free"},
        {"route_mode": 1},
        {"route_preference": ["free"]},
        {"route_preference": 7},
    ):
        assert hinted(**metadata).code == "invalid_request"


def test_a_model_that_nobody_here_knows_may_be_the_key_owners(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: an end user's own server can't be asked for its own models; or somebody is charged for an unknown one."""
    app = keys.app(routes="byok_first")
    user = keys.end_user(app, 0)
    own = keys.end_user(app, 0)
    keys.key(own)
    assert ask(opener, user.bearer, chat(model="their-own-model")).code == "not_found"
    reply = ask(opener, own.bearer, chat(model="their-own-model"))
    assert (reply.status, reply.code) == (400, "provider_error")  # it was asked, and doesn't know it


def test_a_budget_ends_and_never_passes(opener: Gateway, keys: KeysWorld, world: World) -> None:
    """Lost: a key's owner finds more on their provider's bill than they allowed."""
    app = keys.app(routes="byok_first")
    user = keys.end_user(app, 0)
    limit = 40_000  # an answer of 48 tokens costs about 3,000
    key = keys.key(user, budget_e8=limit)
    statuses: list[int] = []
    spent = 0
    for _ in range(40):
        reply = ask(opener, user.bearer, chat(max_tokens=60, mock={"tokens": 48}))
        statuses.append(reply.status)
        if reply.status != 200:
            assert reply.code == "budget_exceeded"
            break
        event = world.event(hold_of(reply))
        assert event is not None
        spent += Charged(event["input_tokens"], event["output_tokens"]).cost
        assert keys.budget(key) == (spent, 0)
    assert statuses[-1] == 402 and Counter(statuses)[200] > 5
    assert spent <= limit


def test_many_at_once_on_one_budget(opener: Gateway, keys: KeysWorld, world: World) -> None:
    """Lost: a burst passes a budget, because each of its requests saw room."""
    app = keys.app(routes="byok_first", fit_to_wallet=False)
    user = keys.end_user(app, 0)
    key = keys.key(user, budget_e8=30_000)
    body = chat(max_tokens=100, mock={"tokens": 100})
    with ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda _: ask(opener, user.bearer, body), range(24)))
    good = [reply for reply in replies if reply.status == 200]
    assert good and {reply.code for reply in replies if reply.status != 200} == {"budget_exceeded"}
    cost = sum(
        Charged(event["input_tokens"], event["output_tokens"]).cost
        for reply in good
        if (event := world.event(hold_of(reply))) is not None
    )
    assert keys.budget(key) == (cost, 0) and cost <= 30_000
    assert keys.books.one("select count(*) from budget_hold where credential_id = %s", key) == 0
    wait_for(lambda: not world.open_holds(user))


def test_a_spent_budget_falls_over_where_its_owner_lets_go(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: an end user who agreed to pay beyond their key's budget is refused."""
    app = keys.app(routes="byok_first")
    user = keys.end_user(app)
    keys.key(user, budget_e8=10, lets_go=True)
    answered(ask(opener, user.bearer, chat()), "platform")
    stays = keys.end_user(app)
    keys.key(stays, budget_e8=10)
    assert ask(opener, stays.bearer, chat()).code == "budget_exceeded"


def test_operators_keys_of_the_vault_are_used(keys: KeysWorld, world: World, mock: Mock, tmp_path: Path) -> None:
    """Lost: a key that the operator stored by the API waits for a restart with a setting."""
    key = keys.key(None, models=("mock-large",))
    user = world.end_user()
    gateway = Gateway(world.dsn, mock.url, tmp_path, **SETTINGS)
    try:
        for _ in range(40):
            answered(ask(gateway, user.bearer, chat(model="mock-large", mock={"tokens": 1})), "platform")
        wait_for(lambda: keys.told(key)[0] > 0)
    finally:
        gateway.stop()
        keys.forget(key)


def test_a_key_that_does_not_open_keeps_others_from_paying(
    keys: KeysWorld, world: World, mock: Mock, tmp_path: Path
) -> None:
    """Lost: the gateway's own trouble with a key moves the bill to somebody who did not agree."""
    app = keys.app(routes="byok_first")
    strict, lax = keys.end_user(app), keys.end_user(app)
    keys.key(strict)
    keys.key(lax, lets_go=True)
    gateway = Gateway(world.dsn, mock.url, tmp_path, SECRET_ENCRYPTION_KEY="another-" + "0123456789" * 5)
    try:
        refused = ask(gateway, strict.bearer, chat())
        assert (refused.status, refused.code) == (503, "no_available_route")
        answered(ask(gateway, lax.bearer, chat()), "platform")
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:{port}/v1", "http://localhost:{port}/v1", "http://[::1]:{port}"]
)
def test_a_key_never_leads_to_a_private_address(opener: Gateway, keys: KeysWorld, mock: Mock, base_url: str) -> None:
    """Lost: whoever can write a row makes the gateway ask inside of its own network."""
    app = keys.app(routes="byok_first")
    user = keys.end_user(app)
    port = mock.url.rpartition(":")[2].removesuffix("/v1")
    keys.key(user, provider="openai_compatible", base_url=base_url.format(port=port), models=("mock-small",))
    before = mock.calls()
    refused = ask(opener, user.bearer, chat())
    assert (refused.status, refused.code) == (503, "no_available_route")
    assert mock.calls() == before


def test_the_books_add_up(keys: KeysWorld, world: World) -> None:
    """Lost: one of the above left money or a budget hanging."""
    world.books.assert_sound()
    assert world.books.one("select count(*) from budget_hold") == 0
    wrong = world.books.rows(
        "select b.credential_id from credential_budget b left join"
        " (select credential_id, sum(cost_e8) as spent from budget_charge group by 1) c using (credential_id)"
        " where b.spent_e8 <> coalesce(c.spent, 0) or b.held_e8 <> 0"
    )
    assert wrong == []
