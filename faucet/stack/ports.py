"""Ports of a stack: kept for its processes from the start, and plain words where somebody else has one.

A port is kept by a socket that is bound and never listens: processes of ours can bind beside it, and the system
won't give the port away while one of them is being started again. Not here: who listens.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from faucet.kit.errors import FaucetError

_LISTENING = "0A"


class PortRefused(FaucetError):
    """A port that can't be had: the text says which, whose it is, and which option chooses another."""


@dataclass(slots=True)
class KeptPort:
    """A port of ours, until `give_back`."""

    number: int
    socket: socket.socket | None

    def give_back(self) -> None:
        """Let the port go. May be called twice."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


def keep_port(host: str, wanted: int, *, what: str, option: str) -> KeptPort:
    """Keep `wanted`, or a free port where that is 0, for one of our processes. Raises PortRefused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    # Without SO_REUSEPORT on this one, a listener that would share its port with us counts as taken.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, wanted))
    except OSError as error:
        probe.close()
        raise PortRefused(_why(error, host, wanted, what, option)) from None
    number = int(probe.getsockname()[1])
    if not sys.platform.startswith("linux"):
        # Elsewhere nothing can bind beside it, so all that can be done is to look.
        probe.close()
        return KeptPort(number, None)
    keeper = socket.socket(family, socket.SOCK_STREAM)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    keeper.bind((host, number))
    probe.close()
    return KeptPort(number, keeper)


def _why(error: OSError, host: str, port: int, what: str, option: str) -> str:
    instead = f"choose another one with {option} (0 takes a free one)"
    if error.errno == errno.EADDRINUSE:
        owner = listener_on(port)
        return f"port {port}, wanted for {what}, is taken by {owner or 'another program'}: stop that, or {instead}"
    if error.errno == errno.EACCES:
        return f"port {port}, wanted for {what}, needs more rights than this account has: {instead}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {host} for {what} to listen on: check BIND_ADDRESS"
    return f"port {port}, wanted for {what}, can't be used ({error.strerror}): {instead}"


def listener_on(port: int) -> str | None:
    """The program that listens on a TCP port, as far as the system tells this account."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for link in (process / "fd").iterdir():
                if os.readlink(link) in inodes:
                    return f"{_command_of(process)} (process {process.name})"
        except OSError:
            continue  # it ended meanwhile, or belongs to another account
    return None


def _listening_inodes(port: int) -> list[str]:
    inodes = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.append(fields[9])
    return inodes


def _command_of(process: Path) -> str:
    words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    name = os.path.basename(words[0])
    if "-m" in words[:-1] and name.startswith("python"):
        return " ".join([name, *words[words.index("-m") : words.index("-m") + 3]]).strip()
    return name or "a program"
