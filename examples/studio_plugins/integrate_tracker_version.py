"""Registers every published version with the studio's production tracker, over HTTPS.

A complete plugin for a studio to start from. The version in the tracker belongs to the publish: if anything fails, now or in a
plugin that runs later, it is taken back, and it is never there twice, however often the publish is tried.

The environment says where the tracker is and who asks; nothing of it is written down anywhere:

- ``TRACKER_URL``: ``https://tracker.studio.example``
- ``TRACKER_TOKEN``: the bearer token
- ``TRACKER_CA_FILE``: certificates of the studio's own authority, if it has one
- ``TRACKER_TIMEOUT``: seconds to wait for an answer, 10 by default
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import pyblish.api

from integrator.errors import EffectNotMade
from integrator.plugin import Effect, TransactionalPlugin
from integrator.plugin.instances import is_active, is_publishable

#: An answer of the tracker is a few hundred bytes.
_MOST_BYTES = 1 << 20


class TrackerFailed(Exception):
    """The tracker did not do what it was asked, or nobody knows whether it did. The message never holds the token."""


# --- talking to the tracker -------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: `urllib` would take the token along to whatever server it leads to."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _ask(method: str, query: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> Any:
    """One request; returns the JSON answer. Raises `TrackerFailed`."""
    url = os.environ.get("TRACKER_URL", "").rstrip("/")
    if not url.startswith("https://") or "@" in url:
        raise TrackerFailed("TRACKER_URL is not set to an https:// address without user and password")
    body = json.dumps(content).encode() if content is not None else None
    request = urllib.request.Request(f"{url}/api/versions?{urllib.parse.urlencode(query)}", data=body, method=method)
    request.add_header("Content-Type", "application/json")
    # Not among the request's own headers, which tracebacks and debuggers show, and never sent on to another server.
    request.add_unredirected_header("Authorization", f"Bearer {_token()}")
    try:
        with _opener().open(request, timeout=_patience()) as answer:
            read = answer.read(_MOST_BYTES)
        return json.loads(read) if read else None
    except urllib.error.HTTPError as error:
        # What it says is left out: some servers repeat the request, token and all.
        error.close()
        raise TrackerFailed(f"the tracker answered {error.code} to {method}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TrackerFailed(f"the tracker did not answer to {method}: {getattr(error, 'reason', error)}") from None


def _opener() -> urllib.request.OpenerDirector:
    try:
        # Verifies certificate and host name; never turn that off to get a publish through.
        context = ssl.create_default_context(cafile=os.environ.get("TRACKER_CA_FILE"))
    except OSError as error:
        raise TrackerFailed(f"TRACKER_CA_FILE cannot be used: {error.strerror or error}") from None
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect())


def _token() -> str:
    token = os.environ.get("TRACKER_TOKEN", "").strip()
    # Checked here, because the message of the library's own check would repeat it.
    if not token or not token.isascii() or not token.isprintable():
        raise TrackerFailed("TRACKER_TOKEN is not set, or has characters that no token has")
    return token


def _patience() -> float:
    try:
        return float(os.environ.get("TRACKER_TIMEOUT", "10"))
    except ValueError:
        raise TrackerFailed("TRACKER_TIMEOUT is no number of seconds") from None


def _find(**query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _ask("GET", query)["versions"]
    return found


# --- the effect -------------------------------------------------------------------------------------------------------


def create_version(arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Create the version of this effect's key, unless it is there; returns its id in the tracker.

    Looks before it creates, by the publish id: whatever an earlier attempt of the same publish could not take back, because the
    tracker was away at that moment, is found now. It cannot be a published one: no two versions get the same path. (Asset,
    subset and number are not enough for that: a publish may have assets of one name in two sequences.)
    """
    try:
        entries = _find(**{name: arguments[name] for name in ("publish_id", "project", "asset", "subset", "version", "path")})
        for entry in entries:
            if entry["key"] == key:
                return {"id": entry["id"]}
        for entry in entries:
            _ask("DELETE", {"key": entry["key"]})
    except TrackerFailed as error:
        # Nothing was created under this key, so there is nothing to take back, and the publish can be rolled back at once.
        raise EffectNotMade(str(error)) from None
    try:
        created = _ask("POST", {}, {**arguments, "key": key})
    except TrackerFailed:
        # Perhaps it took effect, and only the answer was lost. If the tracker cannot be asked, the compensation follows.
        created = next(iter(_find(key=key)), None)
        if created is None:
            raise
    return {"id": created["id"]}


def withdraw_version(arguments: Mapping[str, Any], key: str, result: Any) -> None:
    """Take the version of this effect's key back, whether it was created or not, as often as it is called.

    By the key and not by the id in `result`: that is not known if the answer was lost or the publish was killed. The tracker
    keeps the key, and refuses a create that arrives later.
    """
    _ask("DELETE", {"key": key})


class IntegrateTrackerVersion(TransactionalPlugin):
    """Creates a version in the tracker for every pyblish instance that is published."""

    label = "Tracker version"
    order = pyblish.api.IntegratorOrder + 0.499
    effects = {"tracker.create_version": Effect(call=create_version, compensate=withdraw_version)}

    def integrate(self, instance: Any, transaction: Any) -> None:
        """Create the version. The journal keeps the arguments, so that whoever recovers the publish can take it back."""
        if not is_active(instance) or not is_publishable(instance):
            return  # switched off, left to a farm, or no version at all
        version = transaction.version(instance)
        if version.is_amended:
            return  # it has its entry since it was published
        transaction.effect(
            "tracker.create_version",
            {
                "publish_id": transaction.publish_id,
                "project": version.values["project"]["name"],
                "asset": instance.data["asset"],
                "subset": instance.data["subset"],
                "version": version.number,
                "path": version.final_path(),
            },
        )
