"""Times the commands that only read, in a publish root with a long history.

    python benchmarks/readers.py [--rounds 15] [--versions 10000] [--transactions 100000] [--keep DIR]

Makes a publish root whose documents are copies of those of one real publish: project `deep` has all versions in one subset,
project `wide` has five in each subset, and the transactions have all ended. Then runs each command as a user does, in turn and
in shuffled order with ``python -c pass``; the figure to quote is the median of each minus the median of that.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import integrator
from integrator.database import LEASES, PROJECT, TRANSACTIONS, Insert
from integrator.documents import subset_key, version_key
from integrator.model import Document, new_id, object_id
from integrator.queries import rooted
from integrator.root import Root

#: Versions of each subset of project `wide`.
EACH = 5
#: Changes of one commit.
BATCH = 5000


def request(folder: str, project: str) -> Document:
    representation = {"name": "exr", "files": [f"{folder}/beauty.exr"]}
    instance = {
        "asset": "sh010", "hierarchy": "shots/sq01", "subset": "renderBeauty", "family": "render", "version": 1,
        "representations": [representation],
    }  # fmt: skip
    whole = {"schema": "integrator:publish-request-1.0", "project": project, "author": "anna", "comment": "first pass"}
    return {**whole, "instances": [instance]}


def fill(folder: str, versions: int, transactions: int) -> None:
    """Make the publish root `folder`/show."""
    with open(f"{folder}/beauty.exr", "wb") as file:
        file.write(b"pixels")
    with integrator.create_root(f"{folder}/show") as root:
        database = root.engine.database
        results = [integrator.publish(request(folder, project), root) for project in ("deep", "wide")]
        ended = database.read(TRANSACTIONS, results[0].transaction)
        assert ended is not None
        changes = [*deep(root, versions), *wide(root, versions // EACH), *history(ended, transactions)]
        for start in range(0, len(changes), BATCH):
            database.commit(changes[start : start + BATCH])


def deep(root: Root, versions: int) -> Iterator[Insert]:
    first, representation = (root.documents("deep", {"type": kind})[0] for kind in ("version", "representation"))
    for number in range(2, versions + 1):
        yield from version(root, "deep", (first, representation), first["parent"], number, "renderBeauty")


def wide(root: Root, subsets: int) -> Iterator[Insert]:
    subset, first, representation = (
        root.documents("wide", {"type": kind})[0] for kind in ("subset", "version", "representation")
    )
    for n in range(subsets):
        parent, name = object_id(), f"render{n:05d}"
        made = {**subset, "_id": parent, "name": name}
        made["data"] = {**subset["data"], "integrator": {"key": subset_key(subset["parent"], name)}}
        yield Insert(collection=PROJECT + "wide", document=made)
        yield Insert(collection=LEASES, document={"_id": f"wide/shots/sq01/sh010/{name}", "token": 5, "transaction": None})
        for number in range(1, EACH + 1):
            yield from version(root, "wide", (first, representation), parent, number, name)


def version(
    root: Root, project: str, originals: tuple[Document, Document], parent: Document, number: int, subset: str
) -> Iterator[Insert]:
    """A version with one representation, and its directory."""
    made, representation = (copy.deepcopy(original) for original in originals)
    ours = made["data"]["integrator"]
    folder = ours["folder"].replace("renderBeauty", subset).replace("v001", f"v{number:03d}")
    ours.update(transaction=new_id(), folder=folder, key=version_key(parent, number))
    made.update(_id=object_id(), name=number, parent=parent)
    key = f"representation/{made['_id']['$oid']}/exr"
    representation.update(_id=object_id(), parent=made["_id"], files=list(representation["files"]))
    representation["data"]["integrator"]["key"] = key
    os.makedirs(rooted(root, folder), exist_ok=True)
    for document in (made, representation):
        yield Insert(collection=PROJECT + project, document=document)


def history(ended: Document, count: int) -> Iterator[Insert]:
    for n in range(count):
        yield Insert(collection=TRANSACTIONS, document={**ended, "_id": new_id(), "publish_id": f"farm-{n}"})


COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "status": ["-m", "integrator", "status"],
    "path, latest": ["-m", "integrator", "path", "deep", "sh010", "renderBeauty"],
    "path, by number": ["-m", "integrator", "path", "wide", "sh010", "render00100", "3"],
    "versions, 1 of a deep subset": ["-m", "integrator", "versions", "deep", "sh010", "renderBeauty", "--latest"],
    "versions, all of a deep subset": ["-m", "integrator", "versions", "deep", "sh010", "renderBeauty"],
    "versions, the same in JSON": ["-m", "integrator", "versions", "deep", "sh010", "renderBeauty", "--json"],
    "versions, a wide project": ["-m", "integrator", "versions", "wide"],
    "versions --latest, wide": ["-m", "integrator", "versions", "wide", "--latest"],
    "history": ["-m", "integrator", "history"],
    "blame": ["-m", "integrator", "blame", "wide/shots/sq01/sh010/publish/render/render00100/v003"],
}


def run(words: list[str], show: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=show, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def measure(show: str, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        names = list(COMMANDS)
        random.shuffle(names)
        for name in names:
            found[name].append(run(COMMANDS[name], show))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--versions", type=int, default=10_000, help="versions of each project (default: 10000)")
    parser.add_argument("--transactions", type=int, default=100_000, help="ended transactions (default: 100000)")
    parser.add_argument("--keep", metavar="DIR", help="make the publish root in DIR and leave it there, or use the one there")
    chosen = parser.parse_args()
    place: Any = contextlib.nullcontext(chosen.keep) if chosen.keep else tempfile.TemporaryDirectory()
    with place as folder:
        if not os.path.exists(f"{folder}/show"):
            os.makedirs(folder, exist_ok=True)
            fill(os.path.abspath(folder), chosen.versions, chosen.transactions)
        found = measure(f"{folder}/show", chosen.rounds)
    start = statistics.median(found.pop("python -c pass"))
    print(f"interpreter start {start:.0f} ms; beyond it, in ms ({chosen.rounds} rounds):")
    for name, times in found.items():
        print(f"  {name:32} median {statistics.median(times) - start:4.0f}   worst {max(times) - start:4.0f}")


if __name__ == "__main__":
    main()
