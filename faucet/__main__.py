"""`python -m faucet`: the command `faucet`."""

from __future__ import annotations

from faucet.cli.main import main

if __name__ == "__main__":
    main()
