"""The nouns of the house as types: ids, payer, usage, charge. No behaviour beyond reading themselves.

One meaning per word, in code, SQL, docs and talk; see the glossary in ARCHITECTURE.md.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NewType
from uuid import UUID

import msgspec

AccountId = NewType("AccountId", int)
"""A ledger account's row id."""

HoldId = NewType("HoldId", UUID)
"""The id of a request's hold, and of everything that comes of it: its usage event and its transfers."""


class Payer(StrEnum):
    """Who pays the provider for an attempt."""

    PLATFORM = "platform"
    DEVELOPER = "developer"
    BYOK = "byok"
    LOCAL = "local"


class UsageSource(IntEnum):
    """Where token counts came from: the provider's own report, our tokenizer, or the end user's word."""

    REPORTED = 0
    COUNTED = 1
    SELF_REPORTED = 2


class Outcome(IntEnum):
    """How an answered request ended, as its usage event records it."""

    COMPLETE = 0
    CLIENT_HUNG_UP = 1
    PROVIDER_FAILED = 2
    """The provider failed after its first byte; what was delivered is charged."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one answer, by kind, disjoint: the total input is the sum of the three input kinds.

    `reasoning_tokens` is the part of `output_tokens` that was thinking; it is not added again.
    """

    input_tokens: int = 0
    """Input that was neither read from nor written to a provider's cache."""
    cached_read_tokens: int = 0
    cached_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    source: UsageSource = UsageSource.REPORTED

    @property
    def total_input_tokens(self) -> int:
        return self.input_tokens + self.cached_read_tokens + self.cached_write_tokens


class Charge(msgspec.Struct, frozen=True):
    """What one answer costs and who gets what, in e8. `cost + channel + platform == retail`."""

    cost_e8: int
    retail_e8: int
    channel_e8: int
    platform_e8: int
