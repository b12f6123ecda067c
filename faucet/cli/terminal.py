"""The terminal: what commands print, how they show that something takes long, and how they end.

Answers go to standard output, everything else to standard error. Where that is no terminal, or NO_COLOR is set,
there are plain lines. Not here: any command.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.status import Status
from rich.text import Text

QUIET_SECONDS = 1.0
"""What is done sooner than this is not worth a line."""
WIDTH_MAX = 100


def console(*, stderr: bool = False) -> Console:
    """A console of a readable width. It marks nothing up by itself: numbers and addresses stay as they are."""
    made = Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=False)
    if not made.is_terminal:
        return Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=True, width=WIDTH_MAX)
    if made.width > WIDTH_MAX:
        made = Console(stderr=stderr, highlight=False, emoji=False, width=WIDTH_MAX)
    return made


class Progress:
    """Says what goes on: a spinner on a terminal, else one line for a step that takes longer than a second."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._status: Status | None = None
        self._timer: threading.Timer | None = None
        self._guard = threading.Lock()

    def step(self, text: str) -> None:
        """What is being done now."""
        text = text.rstrip(".")
        with self._guard:
            if self._console.is_terminal:
                if self._status is None:
                    self._status = self._console.status(Text(text), spinner="dots")
                    self._status.start()
                else:
                    self._status.update(Text(text))
                return
            self._forget_timer()
            self._timer = threading.Timer(QUIET_SECONDS, self._print, [f"{text} …"])
            self._timer.daemon = True
            self._timer.start()

    def note(self, text: str) -> None:
        """What a person should know, for good."""
        self._print(text)

    def done(self) -> None:
        """Nothing is being done any more."""
        with self._guard:
            self._forget_timer()
            if self._status is not None:
                self._status.stop()
                self._status = None

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _print(self, text: str) -> None:
        self._console.print(Text(text))


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress that is gone when the block ends, however it ends."""
    shown = Progress()
    try:
        yield shown
    finally:
        shown.done()


def examples(*lines: str) -> str:
    """The end of a command's help: how it is called, each example on a line of its own."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def complain(text: str) -> None:
    """One fault, for a person: to standard error, the word `Error` first."""
    out = console(stderr=True)
    first, *rest = text.strip().splitlines() or ["unknown"]
    line = Text("Error: ", style="bold red")
    line.append(first[:1] + first[1:], style="not bold")
    out.print(line)
    for more in rest:
        out.print(Text(more, style="dim"))


def write_line(text: str) -> None:
    """One line on standard output, at once. A reader that is gone is no fault of ours."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain again when it closes the stream at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def timed() -> Iterator[list[float]]:
    """How long the block took: the list's only item, in seconds, once it has ended."""
    seconds: list[float] = []
    began = time.monotonic()
    yield seconds
    seconds.append(time.monotonic() - began)


class Writer:
    """Writes a text as it arrives, wrapped between words, with a margin on the left."""

    def __init__(self, out: Console, margin: str = "", *, width: int | None = None) -> None:
        self._out = out
        self._margin = margin
        self._width = width or max(out.width - 1, len(margin) + 20)
        self._column = 0
        self._word = ""
        self._space = ""

    def write(self, text: str) -> None:
        """Write what has come; the last word waits for its end."""
        for part in _PARTS.findall(text):
            if part == "\n":
                self._place()
                self._break()
            elif part.isspace():
                self._place()
                self._space = " " if self._column else ""
            elif _WIDE.fullmatch(part):
                self._word += part
                self._place()
            else:
                self._word += part
        self._out.file.flush()

    def end(self) -> None:
        """Write what is left, and end the line."""
        self._place()
        if self._column:
            self._break()
        self._out.file.flush()

    def _place(self) -> None:
        if not self._word:
            return
        length = cell_len(self._word)
        if self._column and self._column + len(self._space) + length > self._width - len(self._margin):
            self._break()
        if self._column == 0:
            self._out.file.write(self._margin)
            self._space = ""
        self._out.file.write(self._space + self._word)
        self._column += len(self._space) + length
        self._word = self._space = ""

    def _break(self) -> None:
        self._out.file.write("\n")
        self._column = 0
        self._space = ""


_WIDE = re.compile("[\u2e80-\uffff]")
_PARTS = re.compile("\n|[^\\S\n]+|[\u2e80-\uffff]|[^\\s\u2e80-\uffff]+")
