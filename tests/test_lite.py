"""pyblish-lite, a real GUI, publishes with our plugins: its controller, in an event loop of Qt without a screen."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from studio import Studio

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("pyblish_lite", "PyQt5"))),
    reason="pyblish-lite and PyQt5 are not installed: pip install -e '.[gui]'",
)

HERE = Path(__file__).parent


def lite(studio: Studio, *actions: str, fails_at: float | None = None, publish_id: str = "job") -> Any:
    facts = json.dumps({name: getattr(studio, name) for name in ("folder", "sources", "path", "frames")})
    surroundings = {**os.environ, "LITE_PUBLISH_ID": publish_id, "PYTHONPATH": str(HERE)}
    if fails_at is not None:
        surroundings["LITE_FAILS_AT"] = str(fails_at)
    words = [sys.executable, str(HERE / "lite.py"), facts, *actions]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=surroundings, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def state(studio: Studio) -> tuple[object, object, object]:
    return studio.tree(), studio.documents(), studio.leftovers()


def test_it_publishes_and_the_same_again_publishes_nothing_more(studio: Studio) -> None:
    said = lite(studio, "reset", "publish")
    assert (said["answer"]["outcome"], said["errors"]) == ("published", [])
    again = lite(studio, "reset", "validate", "publish")
    assert again["answer"] == {**said["answer"], "outcome": "already_published"}
    assert studio.versions("modelMain") == [1]
    assert studio.leftovers() == []


@pytest.mark.parametrize("fails_at", [2.0, 3.499, 3.5])
def test_a_plugin_that_fails_leaves_nothing(studio: Studio, fails_at: float) -> None:
    before = state(studio)
    said = lite(studio, "reset", "publish", fails_at=fails_at)
    assert said["errors"] == ["certificate has expired"]
    assert said["answer"]["outcome"] in ("rolled_back", "refused")
    assert state(studio) == before


def test_stopped_midway_and_reset_it_starts_from_the_beginning(studio: Studio) -> None:
    said = lite(studio, "reset", "publish-until:IntegrateVersions", "reset", "publish")
    assert (said["answer"]["outcome"], said["errors"]) == ("published", [])
    assert studio.versions("modelMain") == [1]
    assert studio.leftovers() == []


def test_closed_midway_it_leaves_nothing(studio: Studio) -> None:
    before = state(studio)
    said = lite(studio, "reset", "publish-until:IntegrateVersions")
    assert said["answer"] is None
    assert state(studio) == before
