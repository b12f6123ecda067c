"""Who acts on which of the processor's events; a name that ends in a dot is a beginning."""

from __future__ import annotations

from collections.abc import Mapping

from faucet.payments import reversals, top_ups
from faucet.payments.inbox import Applier

TOP_UPS: Mapping[str, Applier] = {
    "checkout.session.": top_ups.on_checkout,
    "payment_intent.": top_ups.on_payment,
    "refund.": reversals.on_refund,
    "charge.refund.updated": reversals.on_refund,
    "charge.dispute.": reversals.on_dispute,
}
"""Events of money that comes in, and of what of it goes back. `charge.refunded` only repeats what `refund.*` says."""
AT_ONCE = "checkout.session."
"""Events that a webhook's answer waits for; all others are applied by the jobs."""
