"""What it is: telling developers' own servers what happened, by the Standard Webhooks specification.

Owns: the kinds of event, the outbox that a tx writes them to, endpoints and their sealed secrets, signatures, when an
undelivered event is tried again, and every SQL statement over these.
Does not own: what makes an event worth telling (offices and doors call `outbox.emit`), the HTTP (`jobs`).
Invariants: an event is in the outbox exactly if what it reports was committed; it keeps its id through every try and
replay; delivery is at least once and in no promised order; the doors that set a secret can't read it.
"""
