"""Compares a durable, journalled, verified publish with the plain copy that it replaces.

    python benchmarks/transfer.py [--rounds 7] [--files 10000] [--only links|copies|memory]

Needs root: it makes a fresh ext4 file system with a journal in an image file and mounts it. The two commands of a comparison run
in turn, in shuffled order, each into a fresh folder; the figure to quote is the median of the ratios of the rounds.

links    N hard links: publish (in-process, durable, documents written) against `cp -al` and `sync -f`
copies   N copies of 64 KiB, checksums taken: the same against `cp -a` and `sync -f`
memory   peak memory of a process that publishes 100,000 hard links
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import integrator
from integrator.root import Root, create_root

SIZE = 64 * 1024


@contextlib.contextmanager
def fresh_disk(size: str) -> Iterator[str]:
    """A mounted ext4 file system of its own, with a journal."""
    with tempfile.TemporaryDirectory() as folder:
        image, mount = f"{folder}/image", f"{folder}/mount"
        os.mkdir(mount)
        subprocess.run(["truncate", "-s", size, image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", mount], check=True)


def make_frames(folder: str, count: int, size: int) -> None:
    os.makedirs(folder)
    block = os.urandom(size + count)
    for n in range(count):
        with open(f"{folder}/beauty.{n + 1:06d}.exr", "wb") as file:
            file.write(block[n : n + size])
    subprocess.run(["sync", "-f", folder], check=True)


def publish(root: Root, folder: str, transfer: str, project: str) -> float:
    request = {
        "schema": "integrator:publish-request-1.0",
        "project": project,
        "instances": [
            {
                "asset": "sh010",
                "hierarchy": "shots",
                "subset": "renderBeauty",
                "family": "render",
                "representations": [{"name": "exr", "files": [f"{folder}/beauty.%06d.exr"], "transfer": transfer}],
            }
        ],
    }
    start = time.perf_counter()
    integrator.publish(request, root)
    return time.perf_counter() - start


def copy(folder: str, target: str, *options: str) -> float:
    start = time.perf_counter()
    subprocess.run(["cp", *options, folder, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)
    return time.perf_counter() - start


def compare(name: str, transfer: str, options: tuple[str, ...], files: int, size: int, rounds: int) -> None:
    with fresh_disk("6G") as mount:
        folder = f"{mount}/source"
        make_frames(folder, files, size)
        ratios, ours, theirs = [], [], []
        with create_root(f"{mount}/show") as root:
            publish(root, folder, transfer, "warm")
            copy(folder, f"{mount}/warm", *options)
            for n in range(rounds):
                pair = [
                    lambda n=n: ours.append(publish(root, folder, transfer, f"p{n}")),
                    lambda n=n: theirs.append(copy(folder, f"{mount}/copy{n}", *options)),
                ]
                random.shuffle(pair)
                for run in pair:
                    os.sync()
                    run()
                ratios.append(ours[-1] / theirs[-1])
                for path in (f"{mount}/copy{n}", f"{mount}/show/p{n}"):
                    subprocess.run(["rm", "-rf", path], check=True)
    print(
        f"{name:8} publish {statistics.median(ours) * 1000:7.0f} ms   cp {statistics.median(theirs) * 1000:7.0f} ms   "
        f"ratio median {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f}, {rounds} rounds)"
    )


_MEMORY = """
import resource, sys
sys.path.insert(0, {here!r})
from transfer import create_root, publish
with create_root({root!r}) as root:
    publish(root, {folder!r}, "hardlink", "p")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def memory(files: int) -> None:
    with fresh_disk("2G") as mount:
        make_frames(f"{mount}/source", files, 64)
        here = os.path.dirname(os.path.abspath(__file__))
        script = _MEMORY.format(here=here, root=f"{mount}/show", folder=f"{mount}/source")
        peak = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    print(f"memory   peak {peak} MiB for {files} hard links")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--only", choices=("links", "copies", "memory"))
    chosen = parser.parse_args()
    if chosen.only in (None, "links"):
        compare("links", "hardlink", ("-al",), chosen.files, 64, chosen.rounds)
    if chosen.only in (None, "copies"):
        compare("copies", "copy", ("-a",), chosen.files, SIZE, chosen.rounds)
    if chosen.only in (None, "memory"):
        memory(100_000)


if __name__ == "__main__":
    main()
