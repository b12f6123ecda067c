"""Who calls: a bearer becomes a principal (operator, developer admin, end user), or a refusal.

The operator's and the developer admin's bearers come from the environment and are compared in constant time. What
a principal may see of a row is asked here too, so that routes only name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from faucet.api.world import World, world_of
from faucet.kit.config import Config
from faucet.kit.db import tx
from faucet.kit.errors import Refusal
from faucet.tenants import sessions
from faucet.tenants.sessions import BEARER_PREFIX
from faucet.tenants.store import Session

BEARER_CHARACTERS_MAX = 512


class Staff(Enum):
    """Who isn't an end user."""

    OPERATOR = "operator"
    DEVELOPER_ADMIN = "developer_admin"
    """May do what developers may, for all of them."""


@dataclass(frozen=True, slots=True)
class EndUser:
    """An end user, by a session that runs."""

    session: Session


# These only describe the schemes in openapi.json; `bearer_of` reads the header.
_session_scheme = HTTPBearer(auto_error=False, scheme_name="session", description="A session's token, `mf_sess_…`.")
_staff_scheme = HTTPBearer(
    auto_error=False, scheme_name="staff", description="The operator's or the developer admin's token."
)


def bearer_of(request: Request) -> str | None:
    """The bearer of the request, if it has one."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    bearer = bearer.strip()
    if scheme.lower() != "bearer" or not 0 < len(bearer) <= BEARER_CHARACTERS_MAX:
        return None
    return bearer


def staff_of(config: Config, bearer: str) -> Staff | None:
    """Who of the staff this bearer is. Both are always compared, so that time says nothing."""
    is_operator = config.admin_token.matches(bearer)
    is_developer_admin = config.developer_admin_token.matches(bearer)
    if is_operator:
        return Staff.OPERATOR
    return Staff.DEVELOPER_ADMIN if is_developer_admin else None


async def end_user(
    request: Request,
    world: Annotated[World, Depends(world_of)],
    _: Annotated[object, Depends(_session_scheme)] = None,
) -> EndUser:
    """The end user who calls. Raises Refusal `invalid_session`, `expired_session`, `disabled`."""
    bearer = bearer_of(request)
    if bearer is None or not bearer.startswith(BEARER_PREFIX):
        raise Refusal("invalid_session", "send a session token: `Authorization: Bearer mf_sess_…`")
    async with tx(world.db) as t:
        return EndUser(await sessions.resolve(t, bearer, now=world.clock.now()))


async def staff(
    request: Request,
    world: Annotated[World, Depends(world_of)],
    _: Annotated[object, Depends(_staff_scheme)] = None,
) -> Staff:
    """Who of the staff calls. Raises Refusal `invalid_session`."""
    bearer = bearer_of(request)
    known = None if bearer is None else staff_of(world.config, bearer)
    if known is None:
        raise Refusal("invalid_session", "this needs the operator's or the developer admin's token")
    return known


async def operator(
    request: Request,
    world: Annotated[World, Depends(world_of)],
    _: Annotated[object, Depends(_staff_scheme)] = None,
) -> Staff:
    """The operator. Raises Refusal `invalid_session` for strangers, `forbidden` for other staff."""
    known = await staff(request, world)
    if known is not Staff.OPERATOR:
        raise Refusal("forbidden", "only the operator may do this")
    return known


TheEndUser = Annotated[EndUser, Depends(end_user)]
TheStaff = Annotated[Staff, Depends(staff)]
TheOperator = Annotated[Staff, Depends(operator)]
OptionalStaffScheme = Depends(_staff_scheme)
