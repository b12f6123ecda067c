"""The settings of a command: the environment's, with what its options say over them. And which version this is."""

from __future__ import annotations

import json
import os
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from faucet.kit.config import SECRETS_FILE, Config, load_config
from faucet.kit.embedded_postgres import default_data_dir

DISTRIBUTION = "modelfaucet-server"


def settings(data: Path | None = None, database_url: str | None = None) -> Config:
    """The settings of this command. Raises ConfigRefused."""
    env = dict(os.environ)
    if data is not None:
        env["FAUCET_DATA"] = str(data)
    if database_url is not None:
        env["DATABASE_URL"] = database_url
        env.pop("DATABASE_URL_FILE", None)
    return load_config(env)


def project_version() -> str:
    """The version of the installed distribution, or of the checkout that this runs from."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        with (Path(__file__).resolve().parents[2] / "pyproject.toml").open("rb") as file:
            return str(tomllib.load(file)["project"]["version"])


def data_dir(data: Path | None) -> Path:
    """The data dir that a command is about."""
    return Path(os.path.abspath((data or default_data_dir()).expanduser()))


def operator_token(data: Path | None) -> str | None:
    """The operator's token: the environment's, else the one that this data dir's stack made up."""
    given = os.environ.get("ADMIN_TOKEN", "").strip()
    if given:
        return given
    try:
        kept = json.loads((data_dir(data) / SECRETS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    token = kept.get("ADMIN_TOKEN")
    return token if isinstance(token, str) else None
