"""What it is: the upstream LLM services, as data and thin adapters, and a mock provider that behaves like one.

Owns: where a provider is, how to authorise, its wire's words and OpenAI's for them, what its failures mean.
Does not own: the HTTP client (`kit.upstream`), which provider answers (`routing`), what it costs (`rating`).
Invariants: a provider's credential is put into a header here and nowhere else, and never into an error.
"""
