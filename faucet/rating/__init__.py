"""What it is: rating, which turns token counts and a price version into a charge, before and after a call.

Owns: the words of a price (`price`), the ceiling and the rated charge (`rate`), who gets what of it
(`share`), the reading of a provider's usage report (`usage`), draft prices from a packaged catalogue
(`seed`), and the SQL of the price table (`store`).
Does not own: holds, transfers and balances (`ledger`), which provider is called (`routing`), how a reply is
fetched (`providers`), token counting with a vocabulary.
Invariants: integers of 1e-8 USD only; everything but `store` is pure; the parts of a charge sum to its retail
amount; usage within the bounds of a ceiling never rates above it; byok and local carry the shown fee, nothing
else; only a price that a person confirmed is ever looked up.
"""
