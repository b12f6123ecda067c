"""POST /v1/embeddings: held by the input's bytes, settled by what the provider reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from gateway_world import E8, EndUser, Gateway, Mock, Reply, World, hold_of, posted, request, wait_for
from node_world import packages, run

__all__ = ["packages"]

PATH = "/v1/embeddings"
MODEL = "mock-embed"
PRICE_E8 = 2
"""What a token of the model costs; the tests' feature adds 30 percent."""


@pytest.fixture(scope="module")
def embedder(world: World, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    for provider, model in (("mock", MODEL), ("gemini", MODEL), ("mock", "mock-chatty")):
        world.books.rows(
            "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
            " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source,"
            " status) values (%s, %s, 'words', 8192, %s, 2000000, 2000000, 2000000, 0, 0, '2026-01-01', 'test',"
            " 'confirmed') returning id",
            provider,
            model,
            0 if model == MODEL else 100,
        )
    running = Gateway(world.dsn, mock.url, tmp_path_factory.mktemp("embedder"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def through_gemini(
    world: World, mock: Mock, embedder: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose only provider of embeddings speaks Gemini's wire."""
    settings = {"GEMINI_API_KEY": "key-0123456789", "GEMINI_BASE_URL": mock.url.removesuffix("/v1") + "/v1beta"}
    running = Gateway(world.dsn, "http://127.0.0.1:9/v1", tmp_path_factory.mktemp("through-gemini"), **settings)
    yield running
    running.stop()


def embed(gateway: Gateway, bearer: str, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    body = {"model": MODEL, "input": "one two three"} | fields
    return request(gateway, "POST", PATH, *posted(bearer, body, headers))


@pytest.mark.parametrize(
    ("given", "tokens", "rows"),
    [
        ("one two three", 3, 1),
        (["one two", "three", "你好"], 5, 3),
        ([11, 22, 33, 44], 4, 1),
        ([[11, 22], [33]], 3, 2),
    ],
)
def test_every_form_of_input_is_booked_as_reported(
    given: Any, tokens: int, rows: int, world: World, embedder: Gateway, rich: EndUser
) -> None:
    """Lost: batches or tokens are charged as something else than what the provider bills."""
    reply = embed(embedder, rich.bearer, input=given)
    assert reply.status == 200, reply.body
    found = reply.json
    assert [row["index"] for row in found["data"]] == list(range(rows)) and found["model"] == MODEL
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] == tokens
    assert found["modelfaucet"]["usage_source"] == "reported"
    event = world.event(hold_of(reply))
    assert event is not None
    assert (event["input_tokens"], event["output_tokens"], event["usage_source"]) == (tokens, 0, 0)
    assert event["cost_e8"] == tokens * PRICE_E8
    assert world.balance(rich) == (10 * E8 - event["retail_e8"], 0)


def test_the_official_client(world: World, embedder: Gateway, rich: EndUser) -> None:
    """Lost: OpenAI's client, which asks for base64 where nothing is said."""
    with openai.OpenAI(base_url=embedder.openai_url, api_key=rich.bearer, max_retries=0) as client:
        quiet = client.embeddings.create(model=MODEL, input=["one", "two"])
        floats = client.embeddings.create(model=MODEL, input=["one", "two"], encoding_format="float", dimensions=4)
        with pytest.raises(openai.BadRequestError, match="input"):
            client.embeddings.create(model=MODEL, input=[])
    assert [len(row.embedding) for row in floats.data] == [4, 4]
    assert quiet.data[0].embedding[:4] == pytest.approx(floats.data[0].embedding)
    assert quiet.usage.total_tokens == 2


def test_the_official_client_on_node(packages: Path, world: World, embedder: Gateway, rich: EndUser) -> None:
    """Lost: the same on Node."""
    seen = run(packages, "embeddings.mjs", embedder, rich, MODEL=MODEL)
    assert len(seen["sizes"]) == 2 and min(seen["sizes"]) > 1 and seen["tokens"] == 3 and float(seen["price"]) > 0
    assert len(world.events_of(rich)) == 1


@pytest.mark.parametrize("form", ["float", "base64"])
def test_geminis_wire(form: str, world: World, through_gemini: Gateway, rich: EndUser) -> None:
    """Lost: a provider that has embeddings in words of its own."""
    reply = embed(through_gemini, rich.bearer, input=["one two", "three"], encoding_format=form, dimensions=4)
    assert reply.status == 200, reply.body
    vectors = [row["embedding"] for row in reply.json["data"]]
    assert len(vectors) == 2 and all(isinstance(v, str if form == "base64" else list) for v in vectors)
    event = world.event(hold_of(reply))
    assert event is not None and (event["provider"], event["input_tokens"], event["usage_source"]) == ("gemini", 3, 1)
    # Its wire has no words for tokens: who has is asked, and isn't there.
    refused = embed(through_gemini, rich.bearer, input=[1, 2])
    assert {attempt["provider"] for attempt in refused.json["error"]["details"]["attempts"]} == {"mock"}


def test_the_same_key_is_charged_once(world: World, embedder: Gateway, rich: EndUser) -> None:
    """Lost: a client that retries pays twice."""
    headers = {"idempotency-key": "embed-1"}
    first, second = (embed(embedder, rich.bearer, headers) for _ in range(2))
    assert second.headers["idempotent-replayed"] == "true"
    assert second.json["data"] == first.json["data"] and len(world.events_of(rich)) == 1


def test_a_feature_that_redacts_does_so_here_too(world: World, mock: Mock, embedder: Gateway) -> None:
    """Lost: what a feature keeps from providers in chats leaves in embeddings; or inside of tokens, unseen."""
    feature = world.books.one(
        "insert into feature (id, developer_id, app_id, feature_key, display_name, policy, pricing)"
        " select gen_random_uuid(), developer_id, app_id, 'private', display_name,"
        " jsonb_build_object('privacy', 'redact_pii_before_cloud'), pricing from feature where id = %s returning id",
        world.tenant.feature,
    )
    person = world.end_user()
    world.books.rows("update session set feature_id = %s where end_user_id = %s", feature, person.tenant.end_user)
    world.announce()
    given = ["call me", "mail to jane.doe@example.com"]
    reply = wait_for(lambda: (told := embed(embedder, person.bearer, input=given)).status == 200 and told)
    assert reply.json["modelfaucet"]["redactions"] == {"email": 1}, reply.body
    assert "jane.doe" not in json.dumps(mock.last()["body"])
    refused = embed(embedder, person.bearer, input=[1, 2])
    assert (refused.status, refused.json["error"]["param"]) == (400, "input")


def test_what_the_wallet_cannot_pay_is_refused(world: World, embedder: Gateway) -> None:
    """Lost: embeddings run on an empty wallet."""
    poor = world.end_user(20)
    assert embed(embedder, poor.bearer, input="three words here").status == 200  # counted, it fits
    reply = embed(embedder, poor.bearer, input="word " * 40)
    assert (reply.status, reply.code) == (402, "insufficient_balance")
    wait_for(lambda: world.open_holds(poor) == [])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": [{"type": "image_url"}]}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"model": "mock-chatty"}, "model"),
        ({"model": "nobody"}, "model"),
        ({"model": 5}, "model"),
        ({"metadata": 5}, "metadata"),
    ],
)
def test_bad_input_names_its_field(fields: dict[str, Any], param: str, embedder: Gateway, rich: EndUser) -> None:
    """Lost: callers who err don't learn where; or a model of another kind is asked."""
    reply = embed(embedder, rich.bearer, **fields)
    assert reply.status in (400, 404), reply.body
    assert reply.json["error"]["param"] == param, json.dumps(reply.json)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":"\xff"}', b"{" * 5000])
def test_bodies_that_are_none(body: bytes, embedder: Gateway, rich: EndUser) -> None:
    """Lost: a slip is a fault of ours."""
    headers = {"authorization": f"Bearer {rich.bearer}"}
    assert request(embedder, "POST", PATH, body, headers).status == 400
    assert request(embedder, "GET", PATH, None, headers).status == 405
