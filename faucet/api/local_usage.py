"""What a Local Bridge reports of answers on the end user's own machine, by the end user's session."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field, StringConstraints

from faucet.api.auth import TheEndUser
from faucet.api.developer_wire import AskMoment
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.tenant import TenantTx
from faucet.api.wire import Ask, Identifier, Reply
from faucet.api.world import TheWorld
from faucet.ledger.local import LocalReport, note
from faucet.tenants import store

REPORTS_MAX = 100
_TOKENS_MAX = 2**31 - 1

router = APIRouter(tags=["end user"])

RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$"), Field(examples=["req_7f3a"])]
_Provider = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$"), Field(examples=["ollama"])]
_Model = Annotated[
    str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=1, max_length=200), Field(examples=["qwen2.5:7b"])
]
_Tokens = Annotated[int, Field(ge=0, le=_TOKENS_MAX, examples=[120])]


class LocalUsageReport(Ask):
    """One answer of a model on the end user's machine."""

    request_id: RequestId
    feature_key: Identifier | None = None
    route_mode: Literal["local"] = "local"
    provider: _Provider
    model: _Model
    input_tokens: _Tokens
    output_tokens: _Tokens
    duration_ms: Annotated[int, Field(ge=0, le=86_400_000)] = 0
    created_at: AskMoment


class LocalUsageAsk(Ask):
    """Reports, as many as a bridge has, up to a bound."""

    reports: Annotated[list[LocalUsageReport], Field(min_length=1, max_length=REPORTS_MAX)]


class LocalUsageOutcome(Reply):
    """What became of one report: noted now, known from before, or told apart from another one with its id."""

    request_id: str
    status: Annotated[str, Field(examples=["noted", "known", "conflict", "feature_not_found"])]


class LocalUsageReply(Reply):
    """The outcomes, in the order of the reports."""

    items: list[LocalUsageOutcome]


@router.post("/v1/local/usage-reports", response_model=LocalUsageReply)
async def report_local_usage(
    body: LocalUsageAsk,
    caller: TheEndUser,
    world: TheWorld,
    request: Request,
    idempotency_key: TheIdempotencyKey = None,
) -> Response:
    """Note what models on the end user's own machine answered. It is marked as reported by them, and costs nothing.

    A report's `request_id` makes sending it again harmless; each report gets its own answer.
    """
    session = caller.session

    async def act(t: TenantTx) -> LocalUsageReply:
        found = await store.list_features(t, session.app_id)
        features: dict[str | None, UUID | None] = {None: session.feature_id} | {f.feature_key: f.id for f in found}
        known = [
            LocalReport(
                request_id=report.request_id,
                feature_id=features[report.feature_key],
                provider=report.provider,
                model=report.model,
                input_tokens=report.input_tokens,
                output_tokens=report.output_tokens,
                duration_ms=report.duration_ms,
                happened_at=report.created_at,
            )
            for report in body.reports
            if report.feature_key in features
        ]
        noted = iter(await note(t, session.id, known))
        return LocalUsageReply(
            items=[
                LocalUsageOutcome(
                    request_id=report.request_id,
                    status=next(noted).value if report.feature_key in features else "feature_not_found",
                )
                for report in body.reports
            ]
        )

    return await idempotent(
        world,
        request,
        principal=f"end_user:{session.end_user_id}",
        developer_id=session.developer_id,
        key=idempotency_key,
        body=body,
        act=act,
        status=200,
    )
