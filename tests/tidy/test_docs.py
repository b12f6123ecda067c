"""The documents say what is: settings, commands, errors, money's ways and the files that they name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from faucet.kit.config import NAMES, SECRET_NAMES, Config
from faucet.kit.errors import STATUS_BY_CODE
from faucet.kit.money import to_wire
from faucet.ledger.chart import CHART, MOVES

PARTS = ("What it is:", "Owns:", "Does not own:", "Invariants:")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/")
NAMED_PATH = re.compile(r"`((?:faucet|migrations|tests|docs|bench|requirements)/[\w./*<>-]+|[A-Z]+\.md|LICENSE|Makefile)")
NAMED_FUNCTION = re.compile(r"`((?:faucet|gateway|api|jobs|tenants|reports|ledger|rating|routing|limits|providers|kit)"
                            r"/\w+\.py) · (\w+)`")
