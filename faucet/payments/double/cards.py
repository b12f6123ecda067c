"""Test cards: numbers and ready-made payment methods with their fates, as in Stripe's test mode."""

from __future__ import annotations

from dataclasses import dataclass

from faucet.payments.double.problem import Problem


@dataclass(frozen=True, slots=True)
class Card:
    """What happens to a card. `declines` holds always, `declines_off_session` when its owner is not there."""

    brand: str
    declines: str | None = None
    declines_off_session: str | None = None
    disputed: bool = False


CARDS = {
    "4242424242424242": Card("visa"),
    "5555555555554444": Card("mastercard"),
    "378282246310005": Card("amex"),
    "4000000000000002": Card("visa", declines="generic_decline"),
    "4000000000009995": Card("visa", declines="insufficient_funds"),
    "4000000000000069": Card("visa", declines="expired_card"),
    "4000000000000341": Card("visa", declines_off_session="generic_decline"),
    "4000002760003184": Card("visa", declines_off_session="authentication_required"),
    "4000000000000259": Card("visa", disputed=True),
}
NAMED = {
    "pm_card_visa": "4242424242424242",
    "pm_card_mastercard": "5555555555554444",
    "pm_card_chargeDeclined": "4000000000000002",
    "pm_card_chargeDeclinedInsufficientFunds": "4000000000009995",
    "pm_card_chargeCustomerFail": "4000000000000341",
    "pm_card_authenticationRequired": "4000002760003184",
    "pm_card_createDispute": "4000000000000259",
}


def number_of(text: str) -> str:
    """The number of a card as a person types it. Raises Problem for one that is no card's."""
    digits = text.replace(" ", "").replace("-", "")
    if not (digits.isascii() and digits.isdigit() and 13 <= len(digits) <= 19 and _is_luhn(digits)):
        raise Problem(402, "Your card number is incorrect.", kind="card_error", code="incorrect_number", param="number")
    if digits not in CARDS:
        raise Problem(
            402,
            "Your card was declined. Your request was in test mode, but used a non test card.",
            kind="card_error",
            code="card_declined",
            decline_code="test_mode_live_card",
        )
    return digits


def _is_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
