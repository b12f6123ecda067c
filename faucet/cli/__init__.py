"""What it is: the command `faucet`: every way to run, try, look into and operate ModelFaucet from a terminal.

Owns: names, options and examples of commands; what they print, and how they end.
Does not own: how a stack is run (`stack`), nor any rule: it asks the floors below, or a running server over HTTP.
Invariants: answers go to standard output, all else to standard error; an expected fault is a line, not a traceback.
"""
