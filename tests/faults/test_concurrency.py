"""Many processes publish to one subset and die at random: what was acknowledged is there, numbered without a double or a gap."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from faults.harness import FULL, LIMIT, SEED, Job, Run, Studio, told

WORKERS, PUBLISHES = 8, 25 if FULL else 5
pytestmark = pytest.mark.timeout(3000)


def request(sources: str) -> dict[str, object]:
    frames = [{"name": "exr", "files": [f"{sources}/beauty.%04d.exr"], "frames": "1001-1003"}]
    instance = {"asset": "sh010", "subset": "crowd", "family": "render", "representations": frames}
    return {"schema": "integrator:publish-request-1.0", "project": "demo", "author": "anna", "instances": [instance]}


class Worker:
    """One publisher that is started again wherever it was killed."""

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self.name = name
        self.answers = Path(run.out, f"answers-{name}")
        self.answers.touch()
        self.job = self._start()

    def _start(self) -> Job:
        numbers = [len(self.acknowledged()), PUBLISHES]
        wanted = request(self._run.studio.sources)
        return self._run.start("publish_many", None, answers=str(self.answers), worker=self.name, numbers=numbers, request=wanted)

    def acknowledged(self) -> dict[str, int]:
        """Publish id to version, as answered; a torn last line is no answer."""
        lines = self.answers.read_text().split("\n")[:-1]
        return {words[0]: int(words[1]) for words in map(str.split, lines) if words[1] != "again"}

    def kill(self) -> None:
        self.job.kill()
        self.job = self._start()


def _let_them_work(workers: list[Worker], chance: random.Random) -> int:
    """Until all have ended; returns how many were killed on the way."""
    killed, end = 0, time.monotonic() + 20 * LIMIT
    while running := [worker for worker in workers if not worker.job.ended()]:
        assert time.monotonic() < end, [worker.name for worker in running]
        time.sleep(chance.uniform(0.01, 0.15))
        if killed < 3 * PUBLISHES:
            chance.choice(running).kill()
            killed += 1
    return killed


def test_publishers_that_die_at_random_never_share_or_skip_a_number(studio: Studio) -> None:
    print(f"\n  seed {SEED}: FAULTS_SEED={SEED} repeats the choice of victims, not the moment")
    run = studio.fresh()
    workers = [Worker(run, f"worker{n}") for n in range(WORKERS)]
    try:
        killed = _let_them_work(workers, random.Random(SEED))
        run.recover()
        acknowledged = {id: version for worker in workers for id, version in worker.acknowledged().items()}
        _assert_whole(run, acknowledged)
        burnt = len(run.claims())
    finally:
        run.remove()
    told(f"{len(acknowledged)} publishes by {WORKERS} processes, {killed} killed, {burnt} numbers burnt")
    assert killed > 5


def _assert_whole(run: Run, acknowledged: dict[str, int]) -> None:
    assert len(acknowledged) == WORKERS * PUBLISHES
    published = run.versions("crowd")
    burnt = {int(key.rpartition("/v")[2]) for key in run.claims()}
    assert sorted(acknowledged.values()) == published, "an acknowledged version is missing, or one was made twice"
    assert sorted({*published, *burnt}) == list(range(1, max(published) + 1)), "there is a gap"
    assert len(published) == len(set(published))
    assert run.leftovers() == []
