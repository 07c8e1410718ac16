"""A production tracker for tests: a real HTTPS server with a real database, its own certificate authority, and real outages.

What it keeps is a table of versions. Its interface, all of it below ``/api/versions`` and with a bearer token:

- ``GET ?key=K`` or ``?publish_id=P&asset=A&subset=S&version=N``: ``{"versions": [{"id", "key", ...}]}``
- ``POST`` with a JSON object: 201 and the new version; 409 if the key has one, 410 if the key was withdrawn
- ``DELETE ?key=K``: 204, whether there was one or not; a key that was withdrawn gets no version any more, so that a request
  which is still on its way when its sender gives up does no harm

::

    with Tracker(folder) as tracker:
        tracker.fault = Fault.LOST_REPLY
        publish(env={**os.environ, **tracker.environment})
        assert tracker.versions() == []
"""

from __future__ import annotations

import datetime
import enum
import json
import os
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import trustme

#: Longer than the plugin under test waits.
LATE: Final = 3.0
#: What a client has to say who it is.
TOKEN: Final = "tracker-secret-4f1c09d2b7"

_TABLES: Final = """
CREATE TABLE versions (id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, publish_id TEXT NOT NULL, project TEXT NOT NULL,
                       asset TEXT NOT NULL, subset TEXT NOT NULL, version INTEGER NOT NULL, path TEXT NOT NULL);
CREATE TABLE withdrawn (key TEXT PRIMARY KEY);
"""
_FIELDS: Final = ("key", "publish_id", "project", "asset", "subset", "version", "path")


class Fault(enum.Enum):
    """What is wrong with the tracker."""

    NONE = "nothing"
    #: Its certificate has expired: no connection is made.
    EXPIRED = "expired certificate"
    #: Every answer is 500, and nothing is done.
    BROKEN = "500"
    #: Only a create answers 500, and creates nothing.
    CREATE_BROKEN = "500 to a create"
    #: A create takes effect in time, and is answered too late.
    LATE_REPLY = "time-out after the create"
    #: A create takes effect long after the client has given up.
    LATE_CREATE = "create after the time-out"
    #: Nothing is answered in time, nor done.
    SILENT = "time-out"
    #: A create takes effect, and the connection is closed instead of an answer.
    LOST_REPLY = "lost reply"
    #: As `LOST_REPLY`, and from then on nobody can connect.
    LOST_AND_GONE = "lost reply, then expired certificate"
    #: The token is not accepted.
    REFUSED = "401"
    #: Everything is sent on to another server.
    REDIRECTED = "redirect"


class Tracker:
    """The server. Runs in threads of this process, on a free port of the loopback."""

    def __init__(self, folder: str) -> None:
        self._database = os.path.join(folder, "tracker.sqlite3")
        authority = trustme.CA()
        self.ca_file = os.path.join(folder, "tracker-ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        expired = authority.issue_cert("localhost", not_before=yesterday - datetime.timedelta(days=90), not_after=yesterday)
        self._contexts = {True: _context(expired), False: _context(authority.issue_cert("localhost"))}
        #: What is wrong now; may be changed at any time.
        self.fault = Fault.NONE
        #: Method and query of every request that got through, in order.
        self.requests: list[tuple[str, str]] = []
        #: Called with the new version after each create, before the answer.
        self.created: Any = None
        #: What those requests said who they are.
        self.tokens: list[str | None] = []
        #: Where `Fault.REDIRECTED` sends everything.
        self.redirect_to = ""
        with self._connected() as database:
            database.executescript(_TABLES)

    def __enter__(self) -> Tracker:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="tracker")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"https://localhost:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What the plugins need to reach it."""
        return {"TRACKER_URL": self.url, "TRACKER_CA_FILE": self.ca_file, "TRACKER_TOKEN": TOKEN, "TRACKER_TIMEOUT": "0.5"}

    # --- the database ---------------------------------------------------------------------------------------------

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=30, isolation_level=None)) as database:
            database.row_factory = sqlite3.Row
            yield database

    def versions(self, **where: Any) -> list[dict[str, Any]]:
        """All versions that it has, or those with these values, by id."""
        condition = " AND ".join(f"{name} = ?" for name in where) or "1"
        with self._connected() as database:
            found = database.execute(f"SELECT * FROM versions WHERE {condition} ORDER BY id", list(where.values()))
            return [dict(row) for row in found]

    def create(self, version: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and answer."""
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            if database.execute("SELECT 1 FROM withdrawn WHERE key = ?", [version["key"]]).fetchone():
                database.execute("ROLLBACK")
                return 410, {"error": "this key was withdrawn"}
            try:
                columns = ", ".join(_FIELDS)
                marks = ", ".join("?" for _ in _FIELDS)
                database.execute(f"INSERT INTO versions ({columns}) VALUES ({marks})", [version[name] for name in _FIELDS])
            except sqlite3.IntegrityError as error:
                database.execute("ROLLBACK")
                return 409, {"error": str(error)}
            database.execute("COMMIT")
        return 201, self.versions(key=version["key"])[0]

    def delete(self, key: str) -> None:
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM versions WHERE key = ?", [key])
            database.execute("INSERT OR IGNORE INTO withdrawn VALUES (?)", [key])
            database.execute("COMMIT")


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


class _Server(ThreadingHTTPServer):
    """Shakes hands in the thread of each connection, with the certificate that is right at that moment."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        super().__init__(("127.0.0.1", 0), _Conversation)

    def finish_request(self, request: Any, client_address: Any) -> None:
        expired = self.tracker.fault is Fault.EXPIRED
        request.settimeout(30)
        try:
            with self.tracker._contexts[expired].wrap_socket(request, server_side=True) as connection:
                super().finish_request(connection, client_address)
        except (ssl.SSLError, OSError):
            pass  # the client did not like the certificate, or went away

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is nothing to talk about."""


class _Conversation(BaseHTTPRequestHandler):
    """One connection."""

    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        if self._admitted():
            where = {name: value for name, value in self._query().items() if name in _FIELDS}
            self._answer(200, {"versions": self.server.tracker.versions(**where)})

    def do_DELETE(self) -> None:
        if self._admitted():
            self.server.tracker.delete(self._query()["key"])
            self._answer(204)

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._admitted():
            return None
        tracker, fault = self.server.tracker, self.server.tracker.fault
        if fault is Fault.CREATE_BROKEN:
            return self._answer(500, {"error": "out of order"})
        if fault is Fault.LATE_CREATE:
            time.sleep(LATE)
        status, answer = tracker.create(content)
        if tracker.created is not None:
            tracker.created(answer)
        if fault is Fault.LATE_REPLY:
            time.sleep(LATE)
        if fault in (Fault.LOST_REPLY, Fault.LOST_AND_GONE):
            if fault is Fault.LOST_AND_GONE:
                tracker.fault = Fault.EXPIRED
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        return self._answer(status, answer)

    def _query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query))

    def _admitted(self) -> bool:
        """Whether the request goes on; answers it if not."""
        tracker, token = self.server.tracker, self.headers.get("Authorization")
        tracker.requests.append((self.command, urlsplit(self.path).query))
        tracker.tokens.append(token)
        if tracker.fault is Fault.SILENT:
            time.sleep(LATE)
            self.close_connection = True
            return False
        if tracker.fault is Fault.REDIRECTED:
            self.send_response(307)
            self.send_header("Location", tracker.redirect_to + self.path)
            self.end_headers()
            return False
        if tracker.fault is Fault.BROKEN:
            self._answer(500, {"error": "out of order"})
            return False
        if token != f"Bearer {TOKEN}" or tracker.fault is Fault.REFUSED:
            self._answer(401, {"error": f"not with {token}"})  # some trackers say so
            return False
        return True

    def _answer(self, status: int, content: Any = None) -> None:
        body = json.dumps(content).encode() if content is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
