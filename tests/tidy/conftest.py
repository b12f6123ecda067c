"""The code as subject: every file of the project that git would keep, read once per run.

Git itself is not asked, so that these tests also run in a plain copy of the tree; its ignore file is.
"""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _patterns() -> list[str]:
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    return [line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#")]


def _is_ignored(path: Path, patterns: list[str]) -> bool:
    if path.name == ".git":
        return True
    relative = "/" + path.relative_to(ROOT).as_posix()
    return any(relative == p if p.startswith("/") else fnmatch(path.name, p) for p in patterns)


def _walk(folder: Path, patterns: list[str]) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or _is_ignored(path, patterns):
            continue
        found += _walk(path, patterns) if path.is_dir() else [path]
    return found


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the project."""
    return ROOT


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    """Every text file by its path in the project; files that are not UTF-8 (packed data) are left out."""
    read = {}
    for path in _walk(ROOT, _patterns()):
        try:
            read[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return read


@pytest.fixture(scope="session")
def trees(texts: dict[str, str]) -> dict[str, ast.Module]:
    """Every Python file, parsed."""
    return {path: ast.parse(text, path) for path, text in texts.items() if path.endswith(".py")}
