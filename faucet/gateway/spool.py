"""A local, fsynced file of rated usage that the ledger has not confirmed yet.

One file per process, locked while it lives. A process that starts adopts the files of those that died. Settling
twice is harmless (the hold's id is the key), so a line that was settled but not yet struck out is settled again
and changes nothing. No content of a request or reply is ever written here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from faucet.kit.log import logger
from faucet.ledger.lane import SettleItem

_encode = msgspec.json.Encoder().encode


class Spool:
    """The spool of this process and those it has adopted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._path = folder / f"{os.getpid()}-{os.urandom(4).hex()}.spool"
        self._file: int | None = None
        self._open: set[UUID] = set()
        self._adopted: dict[UUID, Path] = {}
        self._adopted_left: dict[Path, int] = {}
        self._locks: dict[Path, int] = {}

    def __len__(self) -> int:
        return len(self._open) + len(self._adopted)

    def keep(self, items: Sequence[SettleItem]) -> None:
        """Write settlements down and fsync them."""
        if self._file is None:
            self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            _sync_folder(self._folder)
        os.write(self._file, b"".join(_encode(item) + b"\n" for item in items))
        os.fsync(self._file)
        self._open.update(item.id for item in items)

    def safe(self, hold_id: UUID) -> None:
        """The ledger has this settlement, or has refused it for good."""
        self._open.discard(hold_id)
        if not self._open and self._file is not None:
            os.ftruncate(self._file, 0)

    def left_behind(self) -> Iterator[SettleItem]:
        """Settlements of processes that died, each file locked so that one process takes it."""
        for path in sorted(self._folder.glob("*.spool")):
            if path == self._path or path in self._locks:
                continue
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)  # its process lives, or another adopted it
                continue
            self._locks[path] = descriptor
            items = list(_read(path))
            self._adopted_left[path] = len(items)
            if not items:
                self._drop(path)
            for item in items:
                self._adopted[item.id] = path
                yield item

    def finished(self, hold_id: UUID) -> None:
        """An adopted settlement is in the ledger, or never will be."""
        path = self._adopted.pop(hold_id, None)
        if path is not None:
            self._adopted_left[path] -= 1
            if self._adopted_left[path] == 0:
                self._drop(path)

    def close(self) -> None:
        """Let go of the files; what is unsettled stays for the next process."""
        if self._file is not None:
            if not self._open:
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
        self.let_go()

    def let_go(self) -> None:
        """Give adopted files up as they are, for whoever adopts them next."""
        for descriptor in self._locks.values():
            os.close(descriptor)
        self._locks.clear()
        self._adopted.clear()
        self._adopted_left.clear()

    def _drop(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        os.close(self._locks.pop(path))
        del self._adopted_left[path]


def _read(path: Path) -> Iterator[SettleItem]:
    seen: set[UUID] = set()
    for line in path.read_bytes().split(b"\n"):
        try:
            item = msgspec.json.decode(line, type=SettleItem) if line else None
        except msgspec.MsgspecError:
            # A line cut by a crash was never fsynced, so nobody was told it was safe.
            logger.warning("spool.torn_line", file=path.name)
            continue
        if item is not None and item.id not in seen:
            seen.add(item.id)
            yield item


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
