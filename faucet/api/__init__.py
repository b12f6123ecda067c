"""What it is: the control plane, a JSON API for apps' backends, developers, operators and end users' wallets.

Owns: routes, shapes and who may call what; one tx per request.
Does not own: any rule of the business (the offices and engines below), any SQL.
Invariants: every error is the envelope; an unknown field is refused by name; nothing answers before its tx has
committed; a tenant that asks for another's rows is told that there are none.
"""
