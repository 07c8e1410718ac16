"""Amending a published version: some of its frames or files are replaced, all others stay.

The new directory is built beside the old one, from links to what stays, and the two are exchanged after the verdict; the old one
is kept in the trash. A representation of the request that is a sequence, or a set of tiles, as the published one of that name is,
replaces and adds those frames and keeps the others; any other one is replaced as a whole. Representations that the request does
not name, resources, and files and folders that somebody else put there stay as they are.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from integrator import storage
from integrator.database import PROJECT, Change, Update, field
from integrator.errors import ExpectationFailed, Problem, StorageFailed, ValidationRefused
from integrator.layout import collision_key
from integrator.model import Document, Place
from integrator.pointers import by_name, numbers, replacement
from integrator.root import Root
from integrator.staging import StagingDirectory
from integrator.transfer import Policy

if TYPE_CHECKING:
    from integrator.transaction import Transaction
    from integrator.versions import Version


class Amendment:
    """What becomes of a published version that gets some other files. Made under its lease: nobody else amends it meanwhile.

    Raises `ExpectationFailed` if it is not published any more.
    """

    def __init__(self, root: Root, version: Version) -> None:
        self._root = root
        self._version = version
        self._collection = PROJECT + version.instance.publish.project
        project, subset = version.instance.publish.project, version.instance.parents.subset
        found = root.documents(project, {"type": "version", "parent": subset["_id"], "name": version.number}, limit=1)
        if not found:
            raise ExpectationFailed(f"v{version.number:03d} of {version.instance.lease} is not published any more")
        self._before = found[0]
        parts = root.documents(project, {"type": "representation", "parent": self._before["_id"]})
        self._published: Mapping[str, Document] = by_name(parts)
        self._completed: list[Document] | None = None

    @property
    def _merged(self) -> list[Document]:
        """The representations that the request names, as they will be."""
        if self._completed is not None:
            return self._completed
        return [self._merge(fresh) for fresh in self._version.representations]

    @property
    def document(self) -> Document:
        """The version as it is published."""
        return {**self._before, "data": dict(self._before.get("data") or {})}

    # --- files --------------------------------------------------------------------------------------------------------

    def complete(self, transaction: Transaction) -> None:
        """Link what stays; what somebody else changes in the old directory after that fails the publish.

        Raises `ValidationRefused` for files that would take the place of others, `StorageFailed`.
        """
        staged = set(self._version.staging.names())
        self._completed = self._merged
        self._refuse_taken(staged)
        named = {self._inside(file) for old in self._replaced() for file in old["files"]}
        wanted = {self._inside(file) for merged in self._merged for file in merged["files"]}
        gone = staged | (named - wanted)
        place = Place(root=self._version.staging.directory.root, path=self._version.staging.directory.final)
        found = contents(self._root, place)
        transaction.expect(functools.partial(refuse_changed, self._root, place, found))
        kept = [(name, name, target) for name, (target, _) in found.items() if name not in gone and not name.endswith("/")]
        link(self._root, self._version.staging, self._version.final_path(), self._version.final_path(), kept)
        keep_folders(self._version.staging, self._version.final_path(), found, found.keys() - gone)
        missing = wanted - set(self._version.staging.names())
        if missing:
            raise ValidationRefused(
                Problem(self._version.final_path(name), "is named by a document of the version that is amended, and is not there")
                for name in sorted(missing)[:20]
            )

    def _refuse_taken(self, staged: set[str]) -> None:
        """A file of a representation that stays is nobody else's to replace."""
        untouched = [old for key, old in self._published.items() if key not in by_name(self._version.representations)]
        others = {collision_key(self._inside(file)): old["name"] for old in untouched for file in old["files"]}
        taken = [(name, others[key]) for name in sorted(staged) if (key := collision_key(name)) in others]
        if taken:
            raise ValidationRefused(
                Problem(name, f"is a file of the representation {other}, which the request does not name")
                for name, other in taken
            )

    def _inside(self, file: Document) -> str:
        return str(file["path"]).removeprefix(f"{self._version.rootless}/")

    # --- documents ----------------------------------------------------------------------------------------------------

    def _replaced(self) -> list[Document]:
        """The published representations that the request names."""
        named = by_name(self._version.representations)
        return [old for key, old in self._published.items() if key in named]

    def _merge(self, fresh: Document) -> Document:
        """A representation as it will be: the id and what others added to the published one stay."""
        old = self._published.get(collision_key(fresh["name"]))
        if old is None:
            return fresh
        merged = {**old, **fresh, "_id": old["_id"], "data": {**(old.get("data") or {}), **fresh["data"]}}
        before, now = _numbered(old), _numbered(fresh)
        if before is None or old["context"].get("ext") != fresh["context"].get("ext"):
            return merged
        if now is None:
            name = self._inside(next(iter(fresh["files"])))
            what = f"is one file, and {old['name']} of v{self._version.number:03d} is a sequence"
            raise ValidationRefused([Problem(name, f"{what}: say which frame it is (frames), or name it differently")])
        self._refuse_other_names(old, before, fresh, now)
        tiles = "udim" in fresh["context"]
        both = {**before, **now}
        ordered = sorted(both)
        merged["files"] = [both[number] for number in ordered]
        first = self._inside(merged["files"][0])
        merged["data"]["path"] = self._version.final_path(first)
        if "{" not in fresh["data"]["template"].rpartition("/")[2]:  # that somebody gave it, perhaps in a folder
            above = self._root.layout.path_template().rpartition("/")[0]
            merged["data"]["template"] = f"{above}/{first}"
        found = [f"{number}" for number in ordered] if tiles else numbers(merged | {"context": _first(old, fresh, ordered[0])})
        assert found is not None
        merged["context"] = {**fresh["context"], **({"udim": found} if tiles else {"frame": found[0]})}
        return merged

    def _refuse_other_names(
        self, old: Document, before: Mapping[int, Document], fresh: Document, now: Mapping[int, Document]
    ) -> None:
        """Frames of one sequence must be named alike. Raises `ValidationRefused`."""
        folders = {self._inside(file).rpartition("/")[0] for file in (*before.values(), *now.values())}
        if len(folders) > 1:
            what = f"is in another folder of the version than its other frames ({' and '.join(map(repr, sorted(folders)))})"
            raise ValidationRefused([Problem(old["name"], what)])
        values = {**fresh["context"]}
        frames, tiles = (None, list(before)) if "udim" in values else (list(before), None)
        expected = self._root.layout.file_names(values, frames, tiles)
        for file, name in zip(before.values(), expected):
            found = os.path.basename(file["path"])
            if found != name:
                what = f"would be called {name} today, so that it and the new files of {old['name']} are no sequence"
                raise ValidationRefused([Problem(found, f"{what}: publish a new version instead")])

    def changes(self) -> list[Change]:
        """What the verdict changes; the rest follows when the directory is in place."""
        ours = "data.integrator.transaction", "data.integrator.amended"
        expected = {name: field(self._before, name) for name in ours}
        guard = Update(
            collection=self._collection,
            id=self._before["_id"],
            expect=expected,
            set={"data.integrator.amending": self._version.stamp.transaction},
        )
        made, _ = self._replacement()
        return [guard, *made]

    def pointers(self) -> list[Document]:
        """What is written when the directory is in place."""
        changed, document = self._changed(), self._version.document
        document["data"].update(changed)
        fields = [("data", name) for name in changed]
        _, pointers = self._replacement()
        return [*pointers, {"collection": self._collection, "id": document["_id"], "document": document, "set": fields}]

    def _replacement(self) -> tuple[list[Change], list[Document]]:
        kept = {f"{self._version.rootless}/{name}" for name in self._version.staging.names()}
        return replacement(self._collection, self._replaced(), self._merged, kept)

    def _changed(self) -> Document:
        """The fields of the version's `data` that are new."""
        request, publish = self._version.instance.request, self._version.instance.publish
        ours = dict((self._before.get("data") or {}).get("integrator") or {})
        stamp = self._version.stamp.document("")
        amended = {"transaction": stamp["transaction"], "publish_id": stamp["publish_id"], "time": stamp["time"]}
        ours["amended"] = [*(ours.get("amended") or []), {**amended, "author": publish.author, "comment": publish.comment}]
        ours["folder"] = self._version.rootless
        if resources := self.resources():
            ours["resources"] = resources
        comment = {"comment": publish.comment} if publish.comment else {}
        return {**request.data, **comment, **self._version.shown(), "integrator": ours}

    def resources(self) -> list[Document]:
        """Every file that the version has then and that belongs to no representation."""
        found = ((self._before.get("data") or {}).get("integrator") or {}).get("resources") or ()
        resources = {entry["path"]: entry for entry in found}
        resources.update((entry["path"], entry) for entry in self._version.added().get("resources", ()))
        return list(resources.values())

    def final_representations(self) -> list[Document]:
        """Every representation that the version has then."""
        named = by_name(self._merged)
        return [*self._merged, *(old for key, old in self._published.items() if key not in named)]


def _numbered(representation: Document) -> dict[int, Document] | None:
    """The files by frame or tile; None if they have neither."""
    files = list(representation["files"])
    tiles = (representation.get("context") or {}).get("udim")
    found = tiles if isinstance(tiles, list) and len(tiles) == len(files) else numbers(representation)
    return dict(zip(map(int, found), files)) if found else None


def _first(old: Document, fresh: Document, frame: int) -> dict[str, Any]:
    """The context of whichever of the two has this frame first."""
    return next(part["context"] for part in (old, fresh) if int(part["context"]["frame"]) == frame)


def contents(root: Root, place: Place) -> dict[str, tuple[str, int]]:
    """Everything in a directory, {} if it is not there: (target of a symbolic link or "", inode) by path, of folders with a "/".

    Raises `ValidationRefused` for what is neither a file nor a link nor a folder, `StorageFailed`.
    """
    with root.engine.root(place.root) as fd:
        try:
            at = storage.open_folder(place.path, fd)
        except FileNotFoundError:
            return {}
        except NotADirectoryError:
            what = "is no folder, and cannot be replaced by one: move it away"
            raise ValidationRefused([Problem(root.absolute(place), what)]) from None
        try:
            return dict(_walk(at, "", root.absolute(place)))
        except OSError as error:
            raise StorageFailed("look at", os.path.join(root.absolute(place), error.filename or ""), error) from error
        finally:
            os.close(at)


def refuse_changed(root: Root, place: Place, found: Mapping[str, tuple[str, int]]) -> None:
    """Raise `ExpectationFailed` if a directory has not the same contents any more: what is put in its place lacks what is new."""
    if changed := sorted({name for name, _ in found.items() ^ contents(root, place).items()}):
        names = ", ".join(changed[:5])
        raise ExpectationFailed(
            f"somebody else changed {root.absolute(place)} while this was published ({names}). Everything is as before",
            next="run it again",
        )


def link(root: Root, staging: StagingDirectory, folder: str, was: str, files: Iterable[tuple[str, str, str]]) -> None:
    """Link files of an absolute folder, whose final path is `was`, into a staging directory.

    Each is (path in that folder, path in the staging directory, target of a symbolic link or ""). A link that comes to another
    folder leads to the same file from there. Raises `StorageFailed`.
    """
    settings = root.settings
    hard = Policy(transfer="hardlink", checksum="none", fallback="copy", mode=settings.file_mode, keep_times=True)
    soft = Policy(transfer="symlink", checksum="none", fallback="refuse", mode=0, keep_times=True)
    groups: dict[tuple[str, bool], list[tuple[str, str]]] = {}
    for source, name, target in files:
        above, _, base = name.rpartition("/")
        before, after = os.path.join(was, os.path.dirname(source)), os.path.join(staging.final_path, above)
        if target and not os.path.isabs(target) and before != after:
            target = os.path.relpath(os.path.normpath(os.path.join(before, target)), after)
        groups.setdefault((above, bool(target)), []).append((target or os.path.join(folder, source), base))
    for (above, is_link), entries in groups.items():
        sources, names = [source for source, _ in entries], [name for _, name in entries]
        staging.transfer(sources, names, soft if is_link else hard, folder=above)


def keep_folders(staging: StagingDirectory, path: str, found: Iterable[str], kept: Collection[str]) -> None:
    """Give the new directory the folders of the old one at `path`, with their modes; called when their files are linked.

    `found` is what `contents` found, `kept` what of it stays. A folder goes with the last of its files.
    """
    names = list(found)
    used, stays = set[str](), set[str]()
    for name in names:
        if not name.endswith("/"):
            above = {name[: n + 1] for n, character in enumerate(name) if character == "/"}
            used |= above
            stays |= above if name in kept else set()
    # The inner ones first: nothing may be made in those that are read-only then.
    for name in sorted((name for name in names if name.endswith("/") and (name in stays or name not in used)), reverse=True):
        staging.keep_folder(name.rstrip("/"), os.path.join(path, name))


def staged_contents(staging: StagingDirectory) -> dict[str, tuple[str, int]]:
    """As `contents`, of a staging directory."""
    return dict(_walk(staging.fd, "", staging.path))


def _walk(fd: int, prefix: str, shown: str) -> Iterator[tuple[str, tuple[str, int]]]:
    with os.scandir(fd) as entries:
        found = sorted((entry.name, entry.stat(follow_symlinks=False).st_mode, entry.inode()) for entry in entries)
    for name, mode, inode in found:
        if stat.S_ISDIR(mode):
            with storage.folder(name, fd) as inner:
                if storage.is_mount(inner):
                    raise ValidationRefused(
                        [Problem(f"{shown}/{prefix}{name}", "is a mount, and would be left behind: unmount it")]
                    )
                yield f"{prefix}{name}/", ("", inode)
                yield from _walk(inner, f"{prefix}{name}/", shown)
        elif stat.S_ISLNK(mode):
            yield prefix + name, (os.readlink(name, dir_fd=fd), inode)
        elif stat.S_ISREG(mode):
            yield prefix + name, ("", inode)
        else:
            raise ValidationRefused([Problem(f"{shown}/{prefix}{name}", "is no file, and cannot be kept: move it away")])
