"""A value that must not be seen by accident: passwords, bearers, keys of providers.

Here: only the wrapper. Where secrets come from (`config`) and how stored ones are sealed is not here.
"""

from __future__ import annotations

import hmac


class Secret:
    """A value that does not print: no `str`, no `repr`, no JSON, no pickle, no equality by content."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself; the one call to search for in a review."""
        return self._value

    def matches(self, offered: str | bytes) -> bool:
        """Whether `offered` is this secret, in a time that doesn't say how much of it was right."""
        given = offered.encode() if isinstance(offered, str) else offered
        return hmac.compare_digest(self._value.encode(), given)

    def __repr__(self) -> str:
        return "Secret(••••)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is never serialised")
