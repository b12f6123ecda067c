"""Who gets what of one charge: the provider's cost, the developer's share, the platform's rest.

Here: splitting, which sums exactly by construction (the platform takes the rest), and its inverse. Not here:
tokens (`rate`), and the accounts that the parts are booked to (`ledger`).
"""

from __future__ import annotations

from faucet.kit.money import bps
from faucet.terms import Charge


def split(cost_e8: int, markup_bps: int, share_bps: int) -> Charge:
    """The charge for a cost; margin and the developer's part of it are rounded down."""
    margin_e8 = bps(cost_e8, markup_bps)
    channel_e8 = bps(margin_e8, share_bps)
    return Charge(
        cost_e8=cost_e8,
        retail_e8=cost_e8 + margin_e8,
        channel_e8=channel_e8,
        platform_e8=margin_e8 - channel_e8,
    )


def split_fixed(cost_e8: int, price_e8: int, share_bps: int) -> Charge:
    """The charge of a request at a fixed price: what it leaves beyond the cost is the margin.

    A cost above the price makes a charge of that cost, without a margin: no part is ever negative.
    """
    retail_e8 = max(price_e8, cost_e8)
    margin_e8 = retail_e8 - cost_e8
    channel_e8 = bps(margin_e8, share_bps)
    return Charge(cost_e8=cost_e8, retail_e8=retail_e8, channel_e8=channel_e8, platform_e8=margin_e8 - channel_e8)


def split_fee(fee_e8: int, share_bps: int) -> Charge:
    """The charge of a request whose provider somebody else paid: the shown fee and nothing else."""
    channel_e8 = bps(fee_e8, share_bps)
    return Charge(cost_e8=0, retail_e8=fee_e8, channel_e8=channel_e8, platform_e8=fee_e8 - channel_e8)


def cost_within(retail_e8: int, markup_bps: int) -> int:
    """The largest cost whose retail amount is at most this one; negative only when the amount is."""
    # retail = floor(cost * (10000 + markup) / 10000) <= limit, solved for cost.
    return ((retail_e8 + 1) * 10_000 - 1) // (10_000 + markup_bps)


def capped(charge: Charge, held_e8: int) -> tuple[Charge, int]:
    """The charge, unchanged, and the part of its retail amount that the hold does not cover.

    A wallet pays `retail - write_off` and never more than was held; the excess is the platform's loss and an
    alarm.
    """
    return charge, max(0, charge.retail_e8 - held_e8)
