"""Renews leases from a small child process.

A host's exporter can hold Python's interpreter lock for minutes, so the owner of a transaction does not renew by itself. One
child for each process and publish root does it: it reads what to hold from a pipe, renews at the interval of the settings, and
ends when the pipe ends, that is, when its parent does. It does not renew for a parent that is stopped (SIGSTOP, a debugger).
Until the first renewal is due the child imports nothing, so that a short publish pays a few milliseconds on another core.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from integrator.settings import LeaseTimes

_CHILD: Final = """
import os, select, sys, time
said, end = b"", time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    if select.select([0], [], [], max(0.0, end - time.monotonic()))[0]:
        more = os.read(0, 65536)
        if not more: sys.exit()
        said += more
sys.path[:] = sys.argv[4:]
from integrator.renewal import serve
serve(said, float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
"""


class Renewal:
    """The parent's end. Starts its child with the first transaction."""

    def __init__(self, url: str, times: LeaseTimes) -> None:
        self._url = url
        self._times = times
        self._child: subprocess.Popen[bytes] | None = None
        self._held: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def hold(self, transaction: str, actor: int, tokens: Mapping[str, int]) -> None:
        """Keep these leases renewed from now on."""
        if self._url:
            self._held[transaction] = {"transaction": transaction, "actor": actor, "tokens": dict(tokens)}
            self._say(self._held[transaction])

    def progress(self, transaction: str, share: float) -> None:
        """Tell others how far a transaction is (0 to 1); they see it after the next renewal."""
        if transaction in self._held:
            self._say({"transaction": transaction, "progress": round(share, 3)})

    def drop(self, transaction: str) -> None:
        """Stop renewing for a transaction."""
        if self._held.pop(transaction, None) is not None:
            self._say({"transaction": transaction, "drop": True})

    def close(self) -> None:
        """End the child."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None and child.stdin is not None:
            # It may hang on a locked database, and has nothing to lose: a renewal is done or not done.
            child.kill()
            with contextlib.suppress(OSError):
                child.stdin.close()
            child.wait()

    def _say(self, message: Mapping[str, Any]) -> None:
        # Renewal saves work, safety is confirm and verdict: a child that cannot be started, has died or does not listen is no
        # error. One that died is replaced, and told again what is held.
        with self._lock, contextlib.suppress(OSError):
            if self._child is None or self._child.poll() is not None:
                self._child = self._start()
                for said in ({"url": self._url}, *self._held.values()):
                    self._write(said)
            self._write(message)

    def _write(self, message: Mapping[str, Any]) -> None:
        if self._child is not None and self._child.stdin is not None:
            os.write(self._child.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def _start(self) -> subprocess.Popen[bytes]:
        times = [str(self._times.renew), str(self._times.takeover)]
        # The URL may hold a password, and everybody can read a command line: it goes through the pipe.
        child = subprocess.Popen(
            child_command(_CHILD, *times, str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        assert child.stdin is not None
        os.set_blocking(child.stdin.fileno(), False)
        return child


def child_command(code: str, *arguments: str) -> list[str]:
    """A command that runs `code` in a Python of its own; `sys.argv` has the arguments, then where modules are found here."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # an editable install is found by a hook, not by a path
    paths = sys.path if package in sys.path else [*sys.path, package]
    return [_interpreter(), "-I", "-S", "-c", code, *arguments, *paths]


def _interpreter() -> str:
    """A Python to run: in a host, `sys.executable` is the host itself."""
    if "python" in os.path.basename(sys.executable).lower():
        return sys.executable
    return os.path.join(sys.exec_prefix, "bin", "python3")


# --- the child's end ------------------------------------------------------------------------------------------------


def serve(said: bytes, interval: float, takeover: float, parent: int) -> None:
    """Renew until the pipe on standard input ends. `said` is what the parent wrote so far."""
    held: dict[str, dict[str, Any]] = {}
    url = ""
    while True:
        *lines, said = said.split(b"\n")
        for line in lines:
            message = json.loads(line)
            url = message.get("url", url)
            _note(held, message)
        if os.getppid() != parent:
            return
        if held and not _stopped(parent):
            _renew_all(held, url, LeaseTimes(renew=interval, takeover=takeover))
        end = time.monotonic() + interval
        while time.monotonic() < end:
            if select.select([0], [], [], max(0.0, end - time.monotonic()))[0]:
                more = os.read(0, 65536)
                if not more:
                    return
                said += more


def _note(held: dict[str, dict[str, Any]], message: dict[str, Any]) -> None:
    transaction = message.get("transaction", "")
    if message.get("drop"):
        held.pop(transaction, None)
    elif "tokens" in message:
        held[transaction] = message
    elif transaction in held:
        held[transaction]["progress"] = message["progress"]


def _renew_all(held: dict[str, dict[str, Any]], url: str, times: LeaseTimes) -> None:
    from integrator.database import TRANSACTIONS, Now, Update, connect
    from integrator.errors import Conflict, IntegratorError
    from integrator.leases import renew

    with contextlib.suppress(IntegratorError):  # the database cannot be asked now: next time
        database = connect(url)
        try:
            for transaction, message in list(held.items()):
                try:
                    if message["tokens"]:
                        renew(database, transaction, message["tokens"], times)
                    else:  # nothing is locked yet: the document itself says that its owner lives
                        still = {"state": "open", "actor": message["actor"]}
                        database.commit([Update(collection=TRANSACTIONS, id=transaction, expect=still, set={"renewed": Now()})])
                except Conflict:
                    del held[transaction]  # lost, broken or ended
                    continue
                share = message.pop("progress", None)
                if share is not None:
                    still = {"state": "open", "actor": message["actor"]}
                    with contextlib.suppress(Conflict):  # it is past that
                        database.commit([Update(collection=TRANSACTIONS, id=transaction, expect=still, set={"progress": share})])
        finally:
            database.close()


def _stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


__all__ = ["Renewal", "child_command", "serve"]
