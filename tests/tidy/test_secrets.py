"""Nothing in the tree belongs to one machine or opens a door: no paths, no package hosts, no credentials."""

from __future__ import annotations

import re

MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:work|root|Users|home/(?!somebody\b)[a-z]\w*)/[\w.]")
"""Folders of a person or of a build machine. `/home/somebody` is nobody's."""
PACKAGE_HOSTS = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|yarnpkg\.com|crates\.io|proxy\.golang\.org|rubygems\.org)\b"
    r"|^\s*(?:-i|--(?:extra-)?index-url|--find-links|--trusted-host)\b"
    r"|\b(?:PIP|UV)_(?:DEFAULT_|EXTRA_)?INDEX(?:_URL)?\s*=",
    re.MULTILINE,
)
CREDENTIALS = re.compile(
    r"\bsk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{20,}"
    r"|\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|\bwhsec_[A-Za-z0-9+/]{20,}"
    r"|\bmf_(?:sess|dev)_[A-Za-z0-9_-]{40,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|\bAIza[A-Za-z0-9_-]{30,}"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/]{20}"
    r"|postgres(?:ql)?://[^\s:/@<]+:[^\s@/<{]{6,}@(?!localhost|127\.0\.0\.1|db[:/]|postgres[:/])[\w.-]+"
)


def test_no_path_of_one_machine(texts: dict[str, str]) -> None:
    """The project runs wherever it is put."""
    assert _found(MACHINE_PATHS, texts) == {}


def test_no_package_host(texts: dict[str, str]) -> None:
    """Where packages come from is the installer's setting; a lock names versions and hashes only."""
    assert _found(PACKAGE_HOSTS, texts) == {}
    locks = {path: text for path, text in texts.items() if path.startswith("requirements/")}
    assert locks, "the locked requirements were not found"
    assert {path for path, text in locks.items() if "://" in text} == set()


def test_no_credential(texts: dict[str, str]) -> None:
    """Nobody's money or account can be reached with what is written here."""
    assert _found(CREDENTIALS, texts) == {}


def _found(pattern: re.Pattern[str], texts: dict[str, str]) -> dict[str, list[str]]:
    return {path: [m[0][:60] for m in pattern.finditer(text)] for path, text in texts.items() if pattern.search(text)}


def test_machine_paths_are_found() -> None:
    """Folders of people and build machines are reported; parts of other paths and of addresses are not."""
    for planted in ("/wo" + "rk/main/x", "cd /ro" + "ot/.cache", "'/Us" + "ers/ann/x'", "/ho" + "me/ann/x"):
        assert MACHINE_PATHS.search(planted), planted
    for honest in ("https://example.com/work/x", "~/work/x", "/home/somebody/x", "/var/lib/x", "grassroots/x"):
        assert not MACHINE_PATHS.search(honest), honest


def test_package_hosts_are_found() -> None:
    """A registry's name and every way to point an installer at one is reported."""
    for planted in ("https://py" + "pi.org/simple", "--index" + "-url https://x", "PIP_INDEX" + "_URL=https://x"):
        assert PACKAGE_HOSTS.search(planted), planted
    assert not PACKAGE_HOSTS.search("pip install --require-hashes -r requirements/dev.txt")


def test_credentials_are_found() -> None:
    """Each kind of credential is reported; the short and masked ones of documents and tests are not."""
    some = "4f9KqZ7w" * 8
    for prefix in ("sk-", "sk-proj-", "sk_live_", "whsec_", "mf_sess_", "mf_dev_", "ghp_", "AIza"):
        assert CREDENTIALS.search(prefix + some), prefix
    assert CREDENTIALS.search("AKIA" + "ABCDEFGHIJKLMNOP")
    assert CREDENTIALS.search("-----BEGIN PRIVATE " + "KEY-----\n" + some)
    assert CREDENTIALS.search("postgresql://faucet:" + "hunter22@db.example.com/x")
    for honest in ("sk-...", "sk-test-1234", "mf_sess_…", "postgresql://faucet:<password>@db.example.com/faucet"):
        assert not CREDENTIALS.search(honest), honest
