"""`python -m faucet`: the command `faucet`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        # Imported here, because somebody may press Ctrl-C while it loads.
        from faucet.cli.main import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)
