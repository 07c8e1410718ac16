"""The effects of a transaction on the file system and on outside systems: how each is undone, and how it is carried out.

Every function here is run by an actor that has won the right to (see `ledger`), can be stopped and overtaken between any two of
its calls, and can be repeated by a later actor. Two rules make that safe:

- *Capture, never delete in place.* Before anything in a directory is deleted or exchanged, it is renamed to a private name that
  carries the transaction, a counter and the actor's number. A later actor captures from the first name, then from the private
  names of earlier actors in ascending order: a name only ever moves to a higher number.
- *Exchange from a private name only.* The identity of what was captured says whether the exchange is still to do.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, ParamSpec, TypeVar

import attrs

from integrator import storage
from integrator.engine import Effect, Engine
from integrator.errors import EffectFailed, EffectNotMade, Stuck, Unsettled, text_of
from integrator.evidence import Proof
from integrator.model import Directory, Document

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: What is said of a final path that somebody else's content has.
FOREIGN: Final = " is not what this publish put there, and was left as it is"


@attrs.frozen(kw_only=True)
class Actor:
    """Whoever carries a transaction out or undoes it now."""

    transaction: str
    number: int
    #: Numbers of all earlier actors, ascending.
    earlier: tuple[int, ...]

    @classmethod
    def of(cls, document: Document) -> Actor:
        number = document["actor"]
        earlier = tuple(sorted(other for other in document["actors"] if other < number))
        return cls(transaction=document["_id"], number=number, earlier=earlier)

    def private(self, thing: str, number: int | None = None) -> str:
        """The private name of a thing of this transaction, for this actor or an earlier one."""
        return f"{self.transaction}.{thing}.{self.number if number is None else number}"

    def effect_key(self, number: int) -> str:
        return f"{self.transaction}/{number}"


class Keep(enum.Enum):
    """Which files of a transaction that is undone stay, under a private name, for the next attempt."""

    NOTHING = "nothing"
    #: What an extractor or a renderer produced; what the engine copied or linked can be made again.
    PRODUCED = "produced"
    EVERYTHING = "everything"


class FolderGone(Exception):
    """The folder for private names was removed by another transaction that rolled back: make it again, and try again."""


class Overtaken(Exception):
    """A private name vanished: a later actor is at work, and this one stops."""


# --- undoing a staging directory ------------------------------------------------------------------------------------


def _with_private_folder(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Try again with a new folder for private names when another transaction's rollback removed it."""

    @functools.wraps(function)
    def repeated(*arguments: _P.args, **named: _P.kwargs) -> _R:
        for _ in range(100):
            with contextlib.suppress(FolderGone):
                return function(*arguments, **named)
        raise OSError(errno.EBUSY, "the folder for private names vanishes as fast as it is made")

    return repeated


@_with_private_folder
def undo_directory(
    engine: Engine, actor: Actor, index: int, directory: Directory, proof: Proof, root_fd: int, keep: Keep = Keep.NOTHING
) -> list[str]:
    """Remove a staging directory, or withdraw it if it was revealed, and delete what is not to be kept of it.

    What is kept lies under the private names of this actor (`kept_names`). Returns what else had to be left. Raises `Stuck` if
    the final name is taken and nothing proves by whom; `OSError`.
    """
    with contextlib.ExitStack() as stack:
        mine = actor.private(str(index))
        try:
            parent: int | None = stack.enter_context(storage.folder(directory.parent, root_fd))
        except FileNotFoundError:
            # Nothing can have the staging or the final name; an earlier actor may have removed the parent after its capture.
            parent = None
        try:
            private = stack.enter_context(storage.folder(directory.private, root_fd))
        except FileNotFoundError:
            if parent is None:
                return []
            private = stack.enter_context(_private_folder(engine, directory.private, root_fd))
        withdrawn = False
        if directory.reserved:
            # The path first, then what the adopter made of it: it may be on its way. A renderer may have made the path anew.
            _captured(engine, actor, f"p{index}", directory.reserved, parent, private)
            _captured(engine, actor, f"r{index}", "", None, private)
        captured = _captured(engine, actor, str(index), directory.staging, parent, private)
        if not captured and parent is not None and not directory.exchanged:  # those get their final name after the verdict only
            withdrawn = _withdraw(engine, directory, proof, parent, private, mine)
            if not withdrawn and proof.identity is not None and storage.exists(directory.final.rpartition("/")[2], parent):
                return [f"{directory.final}{FOREIGN}"]
        if keep is not Keep.NOTHING and _keep(engine, mine, proof if keep is Keep.PRODUCED else None, private):
            engine.storage.sync(private)
            if parent is not None:
                engine.storage.sync(parent)
            return []
        return _delete(engine, mine, proof if withdrawn else None, directory, private)


def _keep(engine: Engine, mine: str, proof: Proof | None, private: int) -> bool:
    """Remove what the engine brought in (with a `proof`); whether any file is left of what was captured."""
    if not storage.exists(mine, private):
        return False
    with storage.folder(mine, private) as fd:
        for name in sorted(proof.made) if proof is not None else ():
            with contextlib.suppress(FileNotFoundError), storage.folder(name.rpartition("/")[0], fd) as inner:
                engine.storage.unlink(name.rpartition("/")[2], inner)
        return any(True for _ in _files(fd))


def kept_names(actor: Actor, index: int) -> list[str]:
    """Private names under which an undone directory may have left files: its own, and those of what was promised."""
    return [actor.private(f"{part}{index}") for part in ("p", "r", "", "s")]


def kept_files(actor: Actor, index: int, directory: Directory, root_fd: int) -> list[str]:
    """Paths, relative to the root, of those of them that are there."""
    try:
        with storage.folder(directory.private, root_fd) as private:
            return [f"{directory.private}/{name}" for name in kept_names(actor, index) if storage.exists(name, private)]
    except FileNotFoundError:
        return []


@_with_private_folder
def capture_promised(engine: Engine, actor: Actor, index: int, directory: Directory, root_fd: int) -> int | None:
    """Take the directory that was promised to a renderer out of its reach; a descriptor of it, None if it is not there."""
    try:
        parent = storage.open_folder(directory.parent, root_fd)
    except FileNotFoundError:
        return None
    try:
        with _private_folder(engine, directory.private, root_fd) as private:
            if _captured(engine, actor, f"r{index}", directory.reserved, parent, private):
                return storage.open_folder(actor.private(f"r{index}"), private)
            return None
    finally:
        os.close(parent)


@_with_private_folder
def capture_successor(engine: Engine, actor: Actor, index: int, directory: Directory, promised: str, root_fd: int) -> None:
    """Take back the directory that an earlier actor began to fill for a reservation which does not go on after all."""
    with (
        contextlib.suppress(FileNotFoundError),
        storage.folder(directory.parent, root_fd) as parent,
        _private_folder(engine, directory.private, root_fd) as private,
    ):
        _captured(engine, actor, f"s{index}", promised, parent, private)


def remove_discarded(engine: Engine, transaction: str, directory: Directory, root_fd: int) -> None:
    """Remove what this transaction had captured of an earlier attempt in order to delete it."""
    with contextlib.suppress(FileNotFoundError), storage.folder(directory.private, root_fd) as private:
        for name in sorted(name for name in os.listdir(private) if name.startswith(f"{transaction}.k")):
            engine.storage.remove_tree(name, private)


def drop_promised(engine: Engine, actor: Actor, index: int, directory: Directory, root_fd: int) -> None:
    """Remove the captured directory of a renderer if nothing is left in it; what nobody asked for stays until it is swept."""
    engine.storage.remove_empty(f"{directory.private}/{actor.private(f'r{index}')}", root_fd)


def put_back(engine: Engine, actor: Actor, index: int, directory: Directory, promised: str, root_fd: int) -> None:
    """Move the files that an undone directory left into the one that is promised from now on; makes it if it is not there.

    File by file into a new directory: whoever still has the old one open reaches nothing in the new one. Repeatable.
    """
    new = engine.storage.make_folders(promised, engine.settings.folder_mode, root_fd)
    try:
        with contextlib.suppress(FileNotFoundError), storage.folder(directory.private, root_fd) as private:
            # In the order in which an adopter that is still awake would move them: what was emptied stays empty.
            for mine in kept_names(actor, index):
                for _ in range(100):
                    if not storage.exists(mine, private):
                        break
                    with storage.folder(mine, private) as old:
                        _move_all(engine, actor, old, new)
                    engine.storage.remove_empty(mine, private)
                else:
                    raise OSError(errno.EBUSY, "files come as fast as they are moved", mine)
        engine.storage.sync(new)
        with storage.folder(directory.parent, root_fd) as parent:
            engine.storage.sync(parent)
    finally:
        os.close(new)


def _move_all(engine: Engine, actor: Actor, old: int, new: int) -> None:
    """Move everything from one folder into another; what has a name there already gets the transaction's id behind its own."""
    for name in sorted(os.listdir(old)):
        target = name
        if storage.exists(name, new):
            if _is_folder(name, old) and _is_folder(name, new):
                with storage.folder(name, old) as inner, storage.folder(name, new) as into:
                    _move_all(engine, actor, inner, into)
                engine.storage.remove_empty(name, old)
                continue
            target = f"{name}.{actor.transaction}"
        if not rename_away(engine, name, old, target, new) and not storage.exists(target, new):
            raise Overtaken  # only a later actor moves these


def _is_folder(name: str, at: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


@_with_private_folder
def capture_own(engine: Engine, actor: Actor, index: int, directory: Directory, root_fd: int) -> None:
    """What an overtaken owner may still do: rename away the staging directory that it made itself, and delete that.

    Where a renderer's files were moved into it, it stays under its private name until it is swept.
    """
    with contextlib.suppress(FileNotFoundError, Overtaken):
        parent = storage.open_folder(directory.parent, root_fd)
        try:
            with _private_folder(engine, directory.private, root_fd) as private:
                mine = actor.private(str(index))
                if rename_away(engine, directory.staging.rpartition("/")[2], parent, mine, private) and not directory.reserved:
                    engine.storage.remove_tree(mine, private)
        finally:
            os.close(parent)


def rename_away(engine: Engine, name: str, at: int, private_name: str, private: int) -> bool:
    """Rename to a private name; False if there is nothing of that name.

    Decided by what is there afterwards, not by the errno: a lost reply of a rename that happened reads ENOENT or EIO.
    """
    try:
        engine.storage.rename(name, at, private_name, private)
    except OSError as error:
        if storage.exists(private_name, private) and not storage.exists(name, at):
            return True
        if error.errno == errno.ENOENT:
            if os.fstat(private).st_nlink == 0:
                raise FolderGone from error
            return False
        raise
    return True


@contextlib.contextmanager
def _private_folder(engine: Engine, path: str, root_fd: int) -> Iterator[int]:
    fd = engine.storage.make_folders(path, engine.settings.folder_mode, root_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _captured(engine: Engine, actor: Actor, thing: str, path: str, parent: int | None, private: int) -> bool:
    """Whether a directory has our private name now, because it had its staging path or an earlier actor's private name."""
    mine = actor.private(thing)
    if storage.exists(mine, private):
        return True
    if parent is not None and rename_away(engine, path.rpartition("/")[2], parent, mine, private):
        return True
    earlier = (actor.private(thing, number) for number in actor.earlier)
    return any(rename_away(engine, name, private, mine, private) for name in earlier)


def _withdraw(engine: Engine, directory: Directory, proof: Proof, parent: int, private: int, mine: str) -> bool:
    """Take a revealed directory back, durably; False if the final name is not ours."""
    name = directory.final.rpartition("/")[2]
    found = storage.identity(name, parent)
    if found is None:
        return False
    if proof.identity is None:
        if proof.whole:
            return False  # never prepared, so never revealed: somebody else's
        raise Stuck(
            f"{directory.final} is there, and the journal that could tell whose it is is lost or cut short. It was left as it is",
            next="look at it, move it away if it is not wanted, then: integrator recover",
        )
    if found != proof.identity or not _holds_our_files(name, parent, proof):
        return False
    if not rename_away(engine, name, parent, mine, private):
        return False
    # Deleting or releasing the number before this is durable would let a power cut bring a gutted directory back.
    engine.storage.sync(private)
    engine.storage.sync(parent)
    return True


def _holds_our_files(name: str, at: int, proof: Proof) -> bool:
    """Whether a directory with the right identity holds at least one of our files, all where a birth time does not vouch for it.

    Inode and birth time alone can be alike for two directories that were made within one tick of the kernel's clock.
    """
    if not proof.files:
        return True
    every = proof.identity is not None and proof.identity.born == 0
    with storage.folder(name, at) as fd:
        ours = (_is_file(fd, path, facts) for path, facts in proof.files.items())
        return all(ours) if every else any(ours)


def _is_file(fd: int, path: str, facts: tuple[int, int]) -> bool:
    folder, _, name = path.rpartition("/")
    try:
        with storage.folder(folder, fd) as at:
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        return False
    return (status.st_size, status.st_ino) == facts


def _files(fd: int, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Path and inode of every file; 0 for a folder where something is mounted, which is not looked into."""
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False), entry.inode()) for entry in entries]
    for name, is_folder, inode in found:
        if is_folder:
            with storage.folder(name, fd) as inner:
                if storage.is_mount(inner):
                    yield prefix + name, 0
                else:
                    yield from _files(inner, f"{prefix}{name}/")
        else:
            yield prefix + name, inode


def _delete(engine: Engine, mine: str, proof: Proof | None, directory: Directory, private: int) -> list[str]:
    """Delete what was captured. From a directory that others could see (`proof`), only what we put there."""
    if not storage.exists(mine, private):
        return []
    foreign: set[str] = set()
    if proof is not None:
        with storage.folder(mine, private) as fd:
            found = dict(_files(fd))
            foreign = {name for name, inode in found.items() if name not in proof.files or proof.files[name][1] != inode}
            for name in sorted(found.keys() - foreign) if foreign else ():
                with contextlib.suppress(FileNotFoundError), storage.folder(name.rpartition("/")[0], fd) as inner:
                    engine.storage.unlink(name.rpartition("/")[2], inner)
    left = sorted(foreign) if foreign else engine.storage.remove_tree(mine, private)
    engine.storage.sync(private)
    return [f"{directory.private}/{mine}/{name}" if foreign else f"{directory.private}/{name}" for name in left]


def remove_folders(engine: Engine, folders: Sequence[tuple[str, str]], roots: Mapping[str, int]) -> None:
    """Remove the folders that a transaction made, innermost first, where they are empty."""
    for root, path in sorted(set(folders), key=lambda folder: folder[1].count("/"), reverse=True):
        if engine.storage.remove_empty(path, roots[root]):
            with contextlib.suppress(FileNotFoundError), storage.folder(path.rpartition("/")[0], roots[root]) as at:
                engine.storage.sync(at)


# --- exchanging a file or directory for a new one -------------------------------------------------------------------


def exchange_base(transaction: str, number: int) -> str:
    """Name under which the new content of an exchange waits in the private folder."""
    return f"{transaction}.x{number}"


@_with_private_folder
def undo_exchange(engine: Engine, actor: Actor, plan: Document, root_fd: int) -> None:
    """Remove new content that was never exchanged: the verdict said no, or never came."""
    with contextlib.suppress(FileNotFoundError), storage.folder(plan["private"], root_fd) as private:
        thing = f"x{plan['number']}"
        mine = actor.private(thing)
        names = [exchange_base(actor.transaction, plan["number"]), *(actor.private(thing, n) for n in actor.earlier)]
        if storage.exists(mine, private) or any(rename_away(engine, name, private, mine, private) for name in names):
            engine.storage.remove_tree(mine, private)
            engine.storage.sync(private)


def finish_exchange(engine: Engine, actor: Actor, plan: Document, root_fd: int) -> None:
    """Put the new content in place and the old one into the trash; whatever was done already stays done.

    `plan`: {"number", "root", "path", "private", "identity", "replaces"}; the last two are [inode, born, size] of the new content
    and of what was there when the transaction prepared ([] for nothing). A directory has `index` and `staged`, its staging path,
    too. Raises `Overtaken`, `Stuck`, `OSError`.
    """
    parent_path, _, name = plan["path"].rpartition("/")
    is_directory = "staged" in plan
    thing = str(plan["index"]) if is_directory else f"x{plan['number']}"
    mine = actor.private(thing)
    with storage.folder(plan["private"], root_fd) as private, storage.folder(parent_path, root_fd) as parent:
        if is_directory:
            _fence(engine, actor, plan, private)
        base = plan["staged"] if is_directory else exchange_base(actor.transaction, plan["number"])
        # Without anything to capture it was exchanged before, and the old content is in the trash: perhaps not durably.
        if _captured(engine, actor, thing, base, parent if is_directory else private, private):
            if not _exchanged(mine, private, name, parent, plan):
                _swap_in(engine, actor, plan, mine, private, name, parent)
            _to_trash(engine, actor, mine, private, plan)
        engine.storage.sync(parent)
        engine.storage.sync(private)
        with contextlib.suppress(FileNotFoundError), storage.folder(actor.transaction, private) as trash:
            engine.storage.sync(trash)


def _fence(engine: Engine, actor: Actor, plan: Document, private: int) -> None:
    """Occupy the names to which earlier actors would rename the old directory where no exchange is possible.

    One that wakes up after this cannot take away what is in place by then: no directory can be renamed onto a file.
    """
    with _trash(engine, actor, private) if actor.earlier else contextlib.nullcontext(-1) as trash:
        for number in actor.earlier:
            with contextlib.suppress(FileExistsError):
                os.close(engine.storage.create(_away(plan, number), engine.settings.file_mode, trash))


def _away(plan: Document, number: int) -> str:
    """Name in the trash of this transaction for an old directory that an actor renames away."""
    return f"{plan['number']}.{plan['path'].rpartition('/')[2]}.{number}"


def _exchanged(mine: str, private: int, name: str, parent: int, plan: Document) -> bool:
    """Whether an earlier actor made the exchange: then our private name holds the old content."""
    captured = identity_list(mine, private)
    if not captured:
        raise Overtaken
    if captured == plan["identity"]:
        return False
    if captured == plan["replaces"] or identity_list(name, parent) == plan["identity"]:
        return True
    raise Stuck(
        f"neither the new nor the old content of {plan['path']} can be told by its identity (was the root restored from a copy?)",
        next=f"look at {plan['private']}/{mine}",
    )


def identity_list(name: str, at: int) -> list[int]:
    """The identity of `name` as [inode, born, size]; [] if nothing has that name."""
    found = storage.identity(name, at)
    return [found.inode, found.born, found.size] if found else []


def _swap_in(engine: Engine, actor: Actor, plan: Document, mine: str, private: int, name: str, parent: int) -> None:
    for _ in range(10):  # somebody outside may make or remove the target between two looks
        try:
            return _swap(engine, actor, plan, mine, private, name, parent)
        except OSError as error:
            # After a lost reply the errno lies, and a second exchange would swap back; what has the name now does not lie.
            if identity_list(name, parent) == plan["identity"]:
                return None
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                raise
        if not storage.exists(mine, private):
            raise Overtaken
    raise OSError(errno.EBUSY, "the file comes and goes", name)


def _swap(engine: Engine, actor: Actor, plan: Document, mine: str, private: int, name: str, parent: int) -> None:
    if not storage.exists(name, parent):
        return engine.storage.rename(mine, private, name, parent)
    try:
        return engine.storage.exchange(mine, private, name, parent)
    except OSError as error:
        if error.errno not in storage.NOT_SUPPORTED:
            raise
    if "staged" in plan:
        return _swap_by_renames(engine, actor, plan, mine, private, name, parent)
    # Without an exchange, a file is still replaced in one instant: its old content gets a second name first.
    _keep_in_trash(engine, actor, plan, name, parent, private)
    return engine.storage.replace(mine, private, name, parent)


def _swap_by_renames(engine: Engine, actor: Actor, plan: Document, mine: str, private: int, name: str, parent: int) -> None:
    """Replace a directory where no exchange is possible (NFS, FUSE): for a moment nothing has its name."""
    away = _away(plan, actor.number)
    with _trash(engine, actor, private) as trash:
        try:
            engine.storage.rename(name, parent, away, trash)
        except OSError:
            if _is_fenced(away, trash):
                raise Overtaken from None
            raise
    engine.storage.rename(mine, private, name, parent)


def _is_fenced(name: str, trash: int) -> bool:
    return storage.exists(name, trash) and not _is_folder(name, trash)


def _to_trash(engine: Engine, actor: Actor, mine: str, private: int, plan: Document) -> None:
    if storage.exists(mine, private):  # else there was nothing to replace
        with _trash(engine, actor, private) as trash:
            rename_away(engine, mine, private, f"{plan['number']}.{plan['path'].rpartition('/')[2]}", trash)
            engine.storage.sync(trash)


def _keep_in_trash(engine: Engine, actor: Actor, plan: Document, name: str, parent: int, private: int) -> None:
    with _trash(engine, actor, private) as trash:
        kept = f"{plan['number']}.{name}"
        if not storage.exists(kept, trash):
            if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                engine.storage.symlink(os.readlink(name, dir_fd=parent), kept, trash)
            else:
                engine.storage.link(name, kept, trash, parent)
            engine.storage.sync(trash)


@contextlib.contextmanager
def _trash(engine: Engine, actor: Actor, private: int) -> Iterator[int]:
    """The folder that keeps what this transaction replaced."""
    fd = engine.storage.make_folders(actor.transaction, engine.settings.folder_mode, private)
    try:
        yield fd
    finally:
        os.close(fd)


# --- sources of moved files -----------------------------------------------------------------------------------------


def remove_source(engine: Engine, actor: Actor, path: str, size: int, time: int, inode: int) -> str:
    """Delete a source whose content is published now; returns "" or why it was left where it is.

    By the owner only. Captured first, then compared, so that a file that somebody saved there meanwhile is put back.
    """
    folder, name = os.path.split(path)
    private_name = _private_source(actor, name, actor.number)
    try:
        at = storage.open_root(folder)
    except OSError as error:
        return f"{path}: {error.strerror}"
    try:
        if not rename_away(engine, name, at, private_name, at):
            return ""
        status = os.stat(private_name, dir_fd=at, follow_symlinks=False)
        reason = "it is not what was published any more"
        if (status.st_size, status.st_mtime_ns, status.st_ino) == (size, time, inode) and stat.S_ISREG(status.st_mode):
            try:
                engine.storage.unlink(private_name, at)
                return ""
            except OSError as error:
                if not storage.exists(private_name, at):
                    return ""  # it was deleted, and only the reply was lost
                reason = error.strerror or str(error)
        try:
            engine.storage.rename(private_name, at, name, at)
        except OSError:
            return f"{path}: {reason}; it is called {private_name} now"
        return f"{path}: {reason}"
    except OSError as error:
        return f"{path}: {error.strerror}"
    finally:
        os.close(at)


def put_back_source(engine: Engine, actor: Actor, path: str) -> str:
    """Give a source its name again that an owner had captured when it died; returns "" or where it is now.

    Whether it is what was published or what somebody saved there since: a recoverer deletes no source.
    """
    folder, name = os.path.split(path)
    try:
        at = storage.open_root(folder)
    except OSError:
        return ""
    try:
        for number in actor.earlier:
            private_name = _private_source(actor, name, number)
            if storage.exists(private_name, at):
                try:
                    engine.storage.rename(private_name, at, name, at)
                except OSError as error:
                    return f"{path}: kept as {private_name} ({error.strerror})"
    finally:
        os.close(at)
    return ""


def _private_source(actor: Actor, name: str, number: int) -> str:
    return f".{name}.{actor.private('s', number)}"


# --- effects in outside systems -------------------------------------------------------------------------------------


def call_effect(engine: Engine, actor: Actor, number: int, name: str, arguments: Mapping[str, Any]) -> Any:
    """Make an outside call with its key.

    Raises `EffectFailed`, `EffectNotMade` if it is known to have changed nothing, `Stuck` if this program does not know it.
    """
    effect = _effect(engine, actor, name)
    try:
        return effect.call(arguments, actor.effect_key(number))
    except EffectNotMade as error:
        raise EffectNotMade(f"the effect {name} failed: {error}", next=error.next) from error
    except (Exception, SystemExit) as error:
        raise EffectFailed(f"the effect {name} failed: {text_of(error)}") from error


def compensate_effect(engine: Engine, actor: Actor, number: int, name: str, arguments: Mapping[str, Any], result: Any) -> None:
    """Take an outside call back; `result` is None if it is not known whether it arrived. Repeatable."""
    compensate = _effect(engine, actor, name).compensate
    if compensate is not None:
        try:
            compensate(arguments, actor.effect_key(number), result)
        except (Exception, SystemExit) as error:
            raise Unsettled(f"the effect {name} could not be taken back: {text_of(error)}") from error


def _effect(engine: Engine, actor: Actor, name: str) -> Effect:
    try:
        return engine.effects[name]
    except KeyError:
        raise Stuck(
            f"the effect {name!r} is not known to this program: its plugin is not loaded here (--plugin-path DIR)",
            next=f"integrator recover {actor.transaction} --plugin-path DIR",
        ) from None
