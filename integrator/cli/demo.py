"""``integrator demo``: a publish, one that is killed midway, recovery, and the publish again, with real files."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

from integrator.cli.console import Console, shown
from integrator.errors import Failed, UsageError

if TYPE_CHECKING:
    from integrator.cli import Call
    from integrator.demo import Killed, Places


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where."""
    parser.epilog = "Needs no network and a few seconds. Run again in the same DIR, it publishes further versions."
    parser.add_argument("folder", nargs="?", default="integrator-demo", metavar="DIR", help="default: ./integrator-demo")


def run(call: Call) -> int:
    """Run all steps."""
    from integrator import demo

    if call.arguments.root:
        raise UsageError("the demo makes a publish root of its own: integrator demo DIR", next="integrator demo --help")
    places = demo.Places(folder=os.path.abspath(call.arguments.folder))
    demo.take(places)
    steps = _Steps(call.console, places)
    steps.media()
    steps.publish("2. Publish both, as one transaction")
    killed = steps.kill()
    recovered = steps.recover(killed)
    steps.publish("5. Publish again: the number is free, because nothing of the killed one stayed")
    steps.check()
    versions = steps.where()
    call.console.answer(
        {"root": places.root, "request": places.request, "killed": killed.transaction, "settled": recovered,
         "versions": versions}
    )  # fmt: skip
    return 0


class _Steps:
    """The steps, in order."""

    def __init__(self, console: Console, places: Places) -> None:
        self._console = console
        self._places = places
        console.print(f"integrator demo in {shown(places.folder)}")

    def _head(self, text: str) -> None:
        self._console.print()
        self._console.print(text)

    def _command(self, *words: str) -> Any:
        """Run one of our commands in a process of its own, with its output as a user would see it."""
        from integrator import demo

        if self._console.json:
            return demo.run(self._places, *words)
        short = [os.path.relpath(word, self._places.folder) if os.path.isabs(word) else word for word in words]
        self._console.print(f"   $ integrator {shlex.join(short)}")
        done = subprocess.run(
            demo.command(*words),
            stdout=subprocess.PIPE,
            cwd=self._places.folder,
            env=demo.surroundings(self._places),
            check=False,
        )
        for line in done.stdout.decode(errors="replace").splitlines():
            self._console.print(f"   {line.replace(self._places.folder + os.sep, '')}")
        if done.returncode != 0:
            raise Failed(f"integrator {shlex.join(words)} ended with exit code {done.returncode}", next="read its message above")
        return None

    def media(self) -> None:
        """Something to publish."""
        from integrator import demo, demo_media

        self._head("1. Something to publish")
        demo.make_media(self._places)
        size = f"{demo_media.WIDTH}x{demo_media.HEIGHT}"
        self._console.print(f"   render/beauty.%04d.exr   {demo_media.FRAME_COUNT} frames of a turning planet, {size} OpenEXR")
        self._console.print("   cache/water.usda         moving water, an animated mesh in USD")
        self._console.print("   request.json             the publish request that names both")
        demo.run(self._places, "init", self._places.root)

    def publish(self, headline: str) -> None:
        """A publish that goes through."""
        self._head(headline)
        self._command("publish", self._places.request, "--root", self._places.root)

    def kill(self) -> Killed:
        """A publish that is killed midway, and what it leaves."""
        from integrator import demo, demo_media

        self._head("3. Publish again, and kill that process while it copies (SIGKILL: it cannot tidy up)")
        killed = demo.kill_midway(self._places)
        name = os.path.basename(killed.staging)
        folder = os.path.relpath(demo.subset_folder(self._places), self._places.folder)
        self._console.print(
            f"   killed after {killed.count} of {demo_media.FRAME_COUNT} frames. In {shown(folder)}/ there is now:"
        )
        for entry in sorted(os.listdir(demo.subset_folder(self._places))):
            count = len(os.listdir(os.path.join(demo.subset_folder(self._places), entry)))
            what = "half a version, under a name that nobody reads" if entry == name else "whole, as it was"
            self._console.print(f"     {shown(entry):<34} {count:>2} files: {what}")
        self._console.print("   The documents know of nothing unfinished:")
        self._command("versions", "demo", "--latest", "--root", self._places.root)
        self._console.print("   The engine does:")
        self._command("status", "--root", self._places.root)
        return killed

    def recover(self, killed: Killed) -> Any:
        """Recovery, which undoes the killed publish."""
        from integrator import demo

        self._head("4. Recover: before the commit point everything is undone, after it everything would be finished")
        answer = self._command("recover", "--root", self._places.root)
        if os.path.exists(killed.staging):
            raise Failed(f"{killed.staging} is still there", next="integrator status")
        self._console.print(f"   {os.path.basename(demo.subset_folder(self._places))}/ holds: {self._names()}")
        return answer["settled"] if answer else None

    def _names(self) -> str:
        from integrator import demo

        return shown(", ".join(sorted(os.listdir(demo.subset_folder(self._places)))))

    def check(self) -> None:
        """Proof that all is well."""
        self._head("6. Compare every published byte with its checksum")
        self._command("check", "--checksums", "--root", self._places.root)

    def where(self) -> Any:
        """Where everything is, and what to try next. Returns the published versions, for programs."""
        from integrator import demo

        versions = demo.run(self._places, "versions", "demo", "--root", self._places.root)["versions"]
        latest = [entry for entry in versions if entry["version"] == max(other["version"] for other in versions)]
        self._head("Where it is")
        for entry in latest:
            self._console.print(f"   {shown(entry['path'])}")
        self._head("Try next")
        here = shlex.quote(shown(os.path.relpath(self._places.root)))
        for words, why in (
            (f"cd {here}", "every command finds its publish root from there"),
            ("integrator history", "the killed publish is there, too"),
            ("integrator publish ../request.json --publish-id mine", "run it twice: the second time does nothing"),
            ("integrator publish --help", "files on the command line, without a request"),
        ):
            self._console.print(f"   {words:<54} {why}")
        return versions
