"""Files and functions stay small enough to be read at once."""

from __future__ import annotations

import ast

FILE_LINES_MAX = 500
TEST_FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
ARCHITECTURE_LINES_MAX = 300


def file_line_limit(path: str) -> int | None:
    """How many lines a file may have; None for a kind of file that has no limit."""
    if path == "ARCHITECTURE.md":
        return ARCHITECTURE_LINES_MAX
    if not path.endswith(".py"):
        return None
    return TEST_FILE_LINES_MAX if path.startswith("tests/") else FILE_LINES_MAX


def long_functions(tree: ast.Module) -> list[str]:
    """The functions with more lines than a screen, each with its length. Decorators don't count."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                found.append(f"{node.name} ({lines} lines)")
    return found


def test_files_are_short(texts: dict[str, str]) -> None:
    """No file becomes the one that everybody edits and nobody reads."""
    too_long = []
    for path, text in texts.items():
        limit = file_line_limit(path)
        lines = len(text.splitlines())
        if limit is not None and lines > limit:
            too_long.append(f"{path}: {lines} lines, at most {limit}")
    assert too_long == []


def test_functions_are_short(trees: dict[str, ast.Module]) -> None:
    """No function outgrows what a reader can hold in mind."""
    assert {path: found for path, tree in trees.items() if (found := long_functions(tree))} == {}


def test_the_limits_bite() -> None:
    """A file of a limited kind has a limit, and a function one line too long is found while one at the limit isn't."""
    assert file_line_limit("faucet/gateway/chat.py") == FILE_LINES_MAX
    assert file_line_limit("bench/micro_upstream.py") == FILE_LINES_MAX
    assert file_line_limit("tests/fault/test_upstream.py") == TEST_FILE_LINES_MAX
    assert file_line_limit("ARCHITECTURE.md") == ARCHITECTURE_LINES_MAX
    assert file_line_limit("requirements/server.txt") is None
    for kind in ("def", "async def"):
        at_limit = f"{kind} f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1)
        assert long_functions(ast.parse(at_limit)) == []
        assert long_functions(ast.parse(at_limit + "    x = 1\n")) == [f"f ({FUNCTION_LINES_MAX + 1} lines)"]
        in_class = "class C:\n    @property\n" + "".join(f"    {line}\n" for line in at_limit.splitlines())
        assert long_functions(ast.parse(in_class)) == []
        assert long_functions(ast.parse(in_class + "        x = 1\n")) == [f"f ({FUNCTION_LINES_MAX + 1} lines)"]
