"""Who calls: a bearer becomes a principal (operator, developer admin, developer token, end user), or a refusal.

The operator's and the developer admin's bearers come from the environment and are compared in constant time; a
developer's token and an end user's session are found by their hashes. Whose rows a caller may have is decided here
too: a route names the scope that it needs and gets a `DeveloperScope`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from faucet.api.tenant import tenant_tx
from faucet.api.world import World, world_of
from faucet.kit.config import Config
from faucet.kit.errors import Refusal, field_error
from faucet.tenants import sessions, tokens
from faucet.tenants.sessions import BEARER_PREFIX
from faucet.tenants.store import Session
from faucet.tenants.tokens import TOKEN_PREFIX

BEARER_CHARACTERS_MAX = 512


@dataclass(frozen=True, slots=True)
class Operator:
    """Who runs the installation: the one of ADMIN_TOKEN, who has no name, or one of OPERATOR_TOKENS."""

    name: str | None = None

    @property
    def actor(self) -> Actor:
        """How the audit log knows them."""
        return Actor("operator", self.name)


@dataclass(frozen=True, slots=True)
class DeveloperAdmin:
    """May do what developers may, for all of them."""


@dataclass(frozen=True, slots=True)
class DeveloperToken:
    """A developer's program, with what its token allows."""

    developer_id: UUID
    token_id: UUID
    scopes: frozenset[str]
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EndUser:
    """An end user, by a session that runs."""

    session: Session


Principal = Operator | DeveloperAdmin | DeveloperToken


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, for the audit log."""

    scope: str
    id: str | None = None

    def __str__(self) -> str:
        return self.scope if self.id is None else f"{self.scope}:{self.id}"


@dataclass(frozen=True, slots=True)
class DeveloperScope:
    """Whose rows a caller may have on a developer's route."""

    developer_id: UUID | None
    """None: all developers'."""
    actor: Actor
    scopes: frozenset[str] | None = None
    """What the caller's token allows; None for staff, who may do everything."""
    expires_at: datetime | None = None
    """When the caller's token ends, if it does."""

    def owner(self, named: UUID | None) -> UUID:
        """The developer whom something is made for: the caller's own, or the one that staff names.

        Raises Refusal `invalid_request` where staff names none, `not_found` where a token names another.
        """
        if self.developer_id is None:
            if named is None:
                raise field_error("developer_id", "is required with this bearer")
            return named
        if named is not None and named != self.developer_id:
            raise Refusal("not_found", "there is no such developer")
        return self.developer_id


# These only describe the schemes in openapi.json; `bearer_of` reads the header.
_session_scheme = HTTPBearer(auto_error=False, scheme_name="session", description="A session's token, `mf_sess_…`.")
_staff_scheme = HTTPBearer(auto_error=False, scheme_name="staff", description="The operator's token.")
_developer_scheme = HTTPBearer(
    auto_error=False,
    scheme_name="developer",
    description="A developer's token, `mf_dev_…`, with the scope that the route names; or the operator's or the "
    "developer admin's, for all developers.",
)


def bearer_of(request: Request) -> str | None:
    """The bearer of the request, if it has one."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    bearer = bearer.strip()
    if scheme.lower() != "bearer" or not 0 < len(bearer) <= BEARER_CHARACTERS_MAX:
        return None
    return bearer


def staff_of(config: Config, bearer: str) -> Operator | DeveloperAdmin | None:
    """Who of the staff this bearer is. All are always compared, so that time says nothing."""
    is_operator = config.admin_token.matches(bearer)
    is_developer_admin = config.developer_admin_token.matches(bearer)
    named = [name for name, token in config.operator_tokens if token.matches(bearer)]
    if is_operator:
        return Operator()
    if named:
        return Operator(named[0])
    return DeveloperAdmin() if is_developer_admin else None


async def principal(request: Request, world: World) -> Principal:
    """Who of staff and developers calls. Raises Refusal `invalid_session`, `expired_session`, `disabled`,
    `rate_limited`."""
    bearer = bearer_of(request)
    known = None if bearer is None else staff_of(world.config, bearer)
    if known is not None:
        return known
    if bearer is None or not bearer.startswith(TOKEN_PREFIX):
        raise Refusal("invalid_session", "this needs a developer's token `mf_dev_…`, or the operator's")
    now = world.clock.now()
    async with tenant_tx(world, None) as t:
        token = await tokens.resolve(t, bearer, now=now)
        world.count(token.id)
        await tokens.touch(t, token, now=now)
    return DeveloperToken(token.developer_id, token.id, frozenset(token.scopes), token.expires_at)


def scope_of(caller: Principal, *scopes: str) -> DeveloperScope:
    """Whose rows the caller may have under one of these scopes. Raises Refusal `forbidden` where its token has none."""
    match caller:
        case DeveloperToken(developer_id, token_id, allowed, expires_at):
            if not allowed.intersection(scopes):
                raise Refusal("forbidden", f"this token lacks the scope {' or '.join(scopes)}")
            return DeveloperScope(developer_id, Actor("developer_token", str(token_id)), allowed, expires_at)
        case DeveloperAdmin():
            return DeveloperScope(None, Actor("developer_admin"))
        case Operator():
            return DeveloperScope(None, caller.actor)


@cache
def require(*scopes: str) -> Callable[..., Awaitable[DeveloperScope]]:
    """A dependency: the caller's DeveloperScope, if its bearer allows one of these scopes.

    The dependency raises Refusal `invalid_session`, `expired_session`, `disabled`, and `forbidden` where the scope
    is lacking. Raises ValueError for a scope that no token can have.
    """
    if not set(scopes) <= set(tokens.SCOPES):
        raise ValueError(f"{scopes!r} are not all scopes")

    async def developer_scope(
        request: Request,
        world: Annotated[World, Depends(world_of)],
        _: Annotated[object, Depends(_developer_scheme)] = None,
    ) -> DeveloperScope:
        return scope_of(await principal(request, world), *scopes)

    return developer_scope


async def end_user(
    request: Request,
    world: Annotated[World, Depends(world_of)],
    _: Annotated[object, Depends(_session_scheme)] = None,
) -> EndUser:
    """The end user who calls. Raises Refusal `invalid_session`, `expired_session`, `disabled`."""
    bearer = bearer_of(request)
    if bearer is None or not bearer.startswith(BEARER_PREFIX):
        raise Refusal("invalid_session", "send a session token: `Authorization: Bearer mf_sess_…`")
    async with tenant_tx(world, None) as t:
        session = await sessions.resolve(t, bearer, now=world.clock.now())
    world.count(session.id)
    return EndUser(session)


async def operator(
    request: Request,
    world: Annotated[World, Depends(world_of)],
    _: Annotated[object, Depends(_staff_scheme)] = None,
) -> Operator:
    """The operator. Raises Refusal `invalid_session` for strangers, `forbidden` for developers and their admin."""
    known = await principal(request, world)
    if not isinstance(known, Operator):
        raise Refusal("forbidden", "only the operator may do this")
    return known


TheEndUser = Annotated[EndUser, Depends(end_user)]
TheOperator = Annotated[Operator, Depends(operator)]
UsageReader = Annotated[DeveloperScope, Depends(require("developer:usage:read"))]
DeveloperBearer = Depends(_developer_scheme)
"""For a route that asks who calls only under some condition."""
