"""The benchmark: `python -m bench` measures the gateway beside others, on this machine, in one run."""
