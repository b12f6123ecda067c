"""A browser for tests: Chromium without a window, told what to do over a pipe by its DevTools protocol.

Nothing but Chromium itself is needed, and it reaches nothing but this machine. CHROMIUM names one in another place.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 30
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
_BECOME = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class NoBrowser(Exception):
    """There is none; the text says what to do."""


class PageFailed(Exception):
    """A page did not become what it must in time."""


def find_browser() -> str:
    """Where Chromium is. Raises NoBrowser."""
    given = os.environ.get("CHROMIUM", "").strip()
    if given:
        if (found := shutil.which(given)) is None:
            raise NoBrowser(f"CHROMIUM={given} is no program that can be run")
        return found
    for name in NAMES:
        if (at := shutil.which(name)) is not None:
            return at
    raise NoBrowser(
        f"a browser is missing: none of {', '.join(NAMES)} is on the PATH. Install Debian's `chromium` (apt-get install"
        " chromium), or name one with CHROMIUM=/path/to/chrome"
    )


class Browser:
    """One page of a browser of its own. Use as a context manager."""

    def __init__(self) -> None:
        self._program = find_browser()
        self._number = 0
        self._session: str | None = None
        self._buffer = b""

    def __enter__(self) -> Browser:
        self._folder = tempfile.mkdtemp(prefix="faucet-browser-")
        theirs, self._out = os.pipe()
        self._in, theirs_too = os.pipe()
        # Out of the way of 3 and 4, which is where Chromium looks for its pipes.
        ends = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (theirs, theirs_too)]
        command = [self._program, *_OPTIONS, f"--user-data-dir={self._folder}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BECOME, *map(str, ends), *command],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (theirs, theirs_too, *ends):
            os.close(each)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    # ── what a person does ──

    def open(self, address: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def type(self, place: str, text: str) -> None:
        """Click into a field, empty it, and type."""
        self.click(place)
        self.run(f"document.querySelector({json.dumps(place)}).select()")
        self.call("Input.insertText", text=text)

    def click(self, place: str) -> None:
        """Click in the middle of what a selector finds, as a mouse does."""
        self.wait(f"document.querySelector({json.dumps(place)}) !== null")
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(place)}); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def text(self, place: str = "body") -> str:
        """What can be read there; nothing where there is nothing."""
        found: str = self.run(f"document.querySelector({json.dumps(place)})?.innerText ?? ''")
        return found

    @property
    def address(self) -> str:
        """Where the browser is."""
        found: str = self.run("location.href")
        return found

    def picture(self, file: Path) -> None:
        """Save what the page looks like."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    # ── how it is told ──

    def wait(self, condition: str, *, seconds: float = SECONDS) -> None:
        """Wait until a condition of the page holds. Raises PageFailed."""
        end = time.monotonic() + seconds
        while True:
            try:
                if self.run(f"Boolean({condition})"):
                    return
            except PageFailed:
                if time.monotonic() > end:
                    raise
            if time.monotonic() > end:
                raise PageFailed(f"not in time: {condition}; the page says: {self.text()[:300]}")
            time.sleep(0.05)

    def run(self, program: str) -> Any:
        """What a line of JavaScript gives. Raises PageFailed."""
        got = self.call("Runtime.evaluate", expression=program, returnByValue=True)
        if "exceptionDetails" in got:
            raise PageFailed(f"{program}: {got['exceptionDetails'].get('text')}")
        return got["result"].get("value")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result. Raises PageFailed."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            got = self._next(end)
            if got.get("id") != self._number:
                continue  # an event
            if "error" in got:
                raise PageFailed(f"{method}: {got['error'].get('message')}")
            result: dict[str, Any] = got["result"]
            return result

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._in, 1 << 16) if ready else b""
            if not part:
                raise PageFailed("the browser doesn't answer")
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message
