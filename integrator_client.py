"""Publishes from a program that cannot load `integrator` itself: a host with an old Python, or without our dependencies.

This one file is all that the host needs. It uses the standard library only, and runs on Python 3.7 and later. It starts
``integrator publish`` as a process of its own, in an environment without what the host put there for itself, and waits::

    import integrator_client

    answer = integrator_client.publish(
        integrator_client.make_request("demo", [
            integrator_client.make_instance("sh010", "renderBeauty", "render", [
                integrator_client.make_representation("exr", ["/render/beauty.%04d.exr"], frames="1001-1048"),
            ]),
        ]),
        root="/show",
    )
    print(answer["versions"][0]["path"])

The answer is that of ``integrator publish --json``; a publish that did not happen raises `PublishFailed`. If the host is
killed, the publish is rolled back at once: the program holds on to the host by its standard input.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
import uuid
import weakref

# Annotations are never evaluated: they may use what Python 3.7 does not have.
from typing import IO, Any, Callable, Iterable, Mapping, Sequence

__all__ = [
    "KEPT",
    "LEFT_OUT",
    "SCHEMA",
    "PublishFailed",
    "clean_environment",
    "find_program",
    "make_instance",
    "make_representation",
    "make_request",
    "publish",
]

SCHEMA = "integrator:publish-request-1.0"

#: Variables that the program does not get: they lead it to the Python, the libraries, and the plugins of the host. A name
#: that ends in ``*`` stands for all that begin like that.
LEFT_OUT = (
    "PYTHON*",  # PYTHONHOME, PYTHONPATH, PYTHONSTARTUP ...: another interpreter's standard library
    "__PYVENV_LAUNCHER__",
    "VIRTUAL_ENV",
    "CONDA_*",
    "LD_*",  # LD_LIBRARY_PATH, LD_PRELOAD, LD_AUDIT ...: another build of OpenSSL or SQLite
    "DYLD_*",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "GCONV_PATH",
    "MALLOC_*",
    "QT_*",
    "QML*",
    "GIO_*",
    "GTK_*",
    "TCL_LIBRARY",
    "TK_LIBRARY",
    "PYBLISH*",  # PYBLISHPLUGINPATH: plugins for this host; those for the program are `plugin_paths`
)
#: Variable of the environment with names, separated by spaces or commas, that the program gets all the same.
KEPT = "INTEGRATOR_KEEP"

#: Seconds between two looks at `cancel` and at the clock.
_LOOK = 0.05
#: Seconds for the last words of a program that has ended. They are in the pipe already, but a process that it started may
#: hold on to the pipe.
_LAST_WORDS = 5.0
_PERCENT = re.compile(r"^(?:Progress: |openjd_progress: )([0-9]+(?:\.[0-9]+)?)%?$")
_DONE = ("published", "already_published", "planned")

#: The ends of pipes that hold running programs.
_held: Any = weakref.WeakSet()


def _let_go() -> None:
    # A process that the host forked must not keep a program going after the host is gone.
    for pipe in list(_held):
        with contextlib.suppress(OSError):
            pipe.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class PublishFailed(Exception):
    """A publish that did not happen, or of which it is not known whether it did; `outcome` says which.

    =========== ========================================================================================================
    outcome     meaning
    =========== ========================================================================================================
    refused     nothing was touched
    busy        nothing was touched; somebody else publishes there
    rolled_back everything is as before
    in_doubt    not known yet: run what `next` says, or publish again under the same `publish_id`, which is always safe
    =========== ========================================================================================================
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        outcome: str,
        next: str = "",
        transaction: str = "",
        publish_id: str = "",
        exit_code: int | None = None,
        answer: dict[str, Any] | None = None,
        said: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        #: For programs: what went wrong, such as ``validation``, ``busy``, ``interrupted``, ``no_program``, ``no_answer``.
        self.code = code
        #: For people: what happened, and what it means for their files.
        self.message = message
        #: The command to run now; "" when there is none.
        self.next = next
        #: What became of the publish.
        self.outcome = outcome
        #: Id of the transaction, "" if none had begun.
        self.transaction = transaction
        #: Under this id the publish can be run again: it publishes once.
        self.publish_id = publish_id
        #: Exit code of the program; None if it never ran or still runs.
        self.exit_code = exit_code
        #: The whole answer; None if there was none.
        self.answer = answer
        #: The last lines that the program said.
        self.said = tuple(said)

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next}" if self.next else self.message

    @property
    def cancelled(self) -> bool:
        """Whether it ended because somebody stopped it; everything is as before."""
        return self.code == "interrupted" and self.outcome == "rolled_back"


# --- the request ------------------------------------------------------------------------------------------------------


def make_request(project: str, instances: Iterable[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """A publish request: what is published together, or not at all.

    `more` are further keys of a request (`author`, `comment`, `publish_id` ...); None stands for "not given".
    """
    return _given({"schema": SCHEMA, "project": project, "instances": list(instances), **more})


def make_instance(
    asset: str, subset: str, family: str, representations: Iterable[Mapping[str, Any]] = (), **more: Any
) -> dict[str, Any]:
    """A publish instance: one version of one subset. `more`: `hierarchy`, `version`, `resources`, `data` ..."""
    entries = list(representations)
    return _given({"asset": asset, "subset": subset, "family": family, "representations": entries or None, **more})


def make_representation(name: str, files: Any, **more: Any) -> dict[str, Any]:
    """A representation; `files` is a path or a list of them. `more`: `frames`, `transfer`, `start_frame`, `output` ..."""
    paths = [files] if isinstance(files, (str, bytes, os.PathLike)) else list(files)
    return _given({"name": name, "files": [os.fsdecode(path) for path in paths], **more})


def _given(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value is not None}


def _one_line(request: Any) -> bytes:
    """The request as the program reads it: one line. Names that are not UTF-8 survive as escapes."""
    if isinstance(request, bytes):
        request = request.decode("utf-8", "surrogateescape")
    if isinstance(request, str):  # read strictly by the program, and not by us; line ends in JSON are no more than spaces
        return request.replace("\r", " ").replace("\n", " ").encode("utf-8", "surrogatepass") + b"\n"
    return json.dumps(request, default=_plain).encode("ascii") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    raise TypeError(f"a publish request cannot hold a {type(value).__name__}: {value!r}")


def _publish_id_of(request: Any) -> str:
    if isinstance(request, (str, bytes)):
        try:
            request = json.loads(request)
        except ValueError:
            return ""  # the program says what is wrong with it
    found = request.get("publish_id") if isinstance(request, Mapping) else None
    return found if isinstance(found, str) else ""


# --- the program ------------------------------------------------------------------------------------------------------


def clean_environment(more: Mapping[str, str | None] | None = None, of: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment `of` the host (default: this process) without what belongs to the host (`LEFT_OUT`).

    What the variable ``INTEGRATOR_KEEP`` names stays. `more` is added at the end; None removes a variable.
    """
    host = os.environ if of is None else of
    kept = set(re.split(r"[\s,]+", host.get(KEPT, "")))
    prefixes = tuple(name[:-1] for name in LEFT_OUT if name.endswith("*"))
    clean = {name: value for name, value in host.items() if name in kept or not (name in LEFT_OUT or name.startswith(prefixes))}
    for name, added in (more or {}).items():
        if added is None:
            clean.pop(name, None)
        else:
            clean[name] = added
    return clean


def find_program(
    program: str | os.PathLike[str] | Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> Sequence[str]:
    """The words that start the program.

    `program` is a path, a name, or a list of words (a launcher and its arguments). Without it the variable
    ``INTEGRATOR_PROGRAM`` says it, which may be a path or a command line; without that it is ``integrator`` on the PATH. Raises
    `PublishFailed` (code ``no_program``) if there is none.
    """
    surroundings = os.environ if environment is None else environment
    if program is None:
        named = os.environ.get("INTEGRATOR_PROGRAM", "").strip()
        program = named if not named or os.path.exists(named) else shlex.split(named, posix=os.name != "nt")
    if isinstance(program, (str, os.PathLike)):
        program = [os.fspath(program)]
    words = [os.fspath(word) for word in program] if program and program[0] else ["integrator"]
    found = shutil.which(words[0], path=surroundings.get("PATH"))
    if found is None:
        raise _no_program(f"there is no program {words[0]!r} here that can be started")
    return [found, *words[1:]]


def _no_program(why: str) -> PublishFailed:
    return PublishFailed(
        "no_program",
        f"The publish did not begin: {why}. Nothing was touched.",
        outcome="refused",
        next="set INTEGRATOR_PROGRAM to the path of the program integrator",
    )


# --- publishing -------------------------------------------------------------------------------------------------------


def publish(
    request: Any,
    *,
    root: str | os.PathLike[str] | None = None,
    program: str | os.PathLike[str] | Sequence[str] | None = None,
    publish_id: str | None = None,
    again: bool = False,
    dry_run: bool = False,
    wait: float | None = None,
    settle: float | None = None,
    attempts: int | None = None,
    attempts_per_host: int | None = None,
    on_changed: str | None = None,
    workers: int | None = None,
    plugin_paths: Iterable[str | os.PathLike[str]] = (),
    report: str | os.PathLike[str] | None = None,
    options: Iterable[str] = (),
    environment: Mapping[str, str | None] | None = None,
    progress: Callable[[float], object] | None = None,
    message: Callable[[str], object] | None = None,
    cancel: Any = None,
    timeout: float | None = None,
    patience: float = 60.0,
) -> dict[str, Any]:
    """Publish `request` (a mapping, or the text of one) and return the answer; durable when it returns.

    `root` is the publish root, by default the one that the command line would find. `publish_id` publishes once under this id;
    without one here or in the request, one is made. The options up to `report` are those of the command line, and `options` are
    further words of it. `environment` is added to what `clean_environment` leaves.

    `progress` is called with 0.0 to 100.0, `message` with every other line that the program says, both in the calling thread;
    either may raise, which stops the publish. `cancel` is a function, or an event of `threading`; as soon as it says yes, or
    after `timeout` seconds, the publish is stopped and rolled back. If it was published by then, that is what is answered.

    Raises `PublishFailed`. If the program has not ended `patience` seconds after it was stopped, the outcome is ``in_doubt``:
    it ends by itself, or ``integrator recover`` settles it. On any other exception in the calling thread (KeyboardInterrupt)
    the publish is stopped and waited for in the same way, and the exception goes on.
    """
    line = _one_line(request)
    surroundings = clean_environment(environment)
    identity = publish_id or _publish_id_of(request)
    words = [*list(find_program(program, surroundings)), "publish", "-", "--json", "--attached"]
    given = {
        "--root": root,
        "--publish-id": publish_id if identity else "host-" + uuid.uuid4().hex,
        "--wait": wait,
        "--settle": settle,
        "--attempts": attempts,
        "--attempts-per-host": attempts_per_host,
        "--on-changed": on_changed,
        "--workers": workers,
        "--report": report,
    }
    for option, value in given.items():
        if value is not None:
            words.append(f"{option}={_word(value)}")
    words += [f"--plugin-path={_word(path)}" for path in plugin_paths]
    words += [option for option, wanted in (("--again", again), ("--dry-run", dry_run)) if wanted]
    words += list(options)
    run = _Run(words, surroundings, line, identity or str(given["--publish-id"]))
    try:
        run.follow(progress, message, _asker(cancel), timeout, patience)
    except PublishFailed:
        raise  # it was waited for long enough
    except BaseException:
        run.stop()
        run.wait(patience)
        raise
    finally:
        run.close()
    return run.answer()


def _word(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else str(value)


def _asker(cancel: Any) -> Callable[[], object]:
    if cancel is None:
        return lambda: False
    asker: Callable[[], object] = getattr(cancel, "is_set", cancel)
    return asker


class _Run:
    """One run of the program, and the threads that talk with it."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], line: bytes, publish_id: str) -> None:
        self._publish_id = publish_id
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._last: collections.deque[str] = collections.deque(maxlen=50)
        self._out: list[bytes] = []
        self._lock = threading.Lock()
        self._is_sent = False
        self._is_whole = False
        self._is_stopped = False
        self._is_over = False
        self._child = self._start(words, environment)
        _held.add(self._child.stdin)
        self._threads = [
            threading.Thread(target=target, args=arguments, name="integrator " + target.__name__, daemon=True)
            for target, arguments in ((self._send, (line,)), (self._read_answer, ()), (self._read_lines, ()))
        ]
        for thread in self._threads:
            thread.start()

    def _start(self, words: Sequence[str], environment: Mapping[str, str]) -> Any:
        try:
            return subprocess.Popen(
                list(words),
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                # Ctrl-C in a terminal is for the host; what it means for the publish, the host says.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, ValueError) as error:
            raise _no_program(f"{words[0]} cannot be started: {getattr(error, 'strerror', None) or error}") from error

    # --- in the calling thread --------------------------------------------------------------------------------------

    def follow(
        self,
        progress: Callable[[float], object] | None,
        message: Callable[[str], object] | None,
        cancelled: Callable[[], object],
        timeout: float | None,
        patience: float,
    ) -> None:
        """Pass on what the program says until it ends. Raises `PublishFailed` if it does not end when it was stopped."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._child.poll() is None:
            self._pass_on(progress, message)
            if self._is_stopped:
                if deadline is not None and time.monotonic() > deadline:
                    raise self._unanswered(f"was told to stop and has not ended within {patience:g} s")
            elif cancelled() or (deadline is not None and time.monotonic() > deadline):
                self.stop()
                deadline = time.monotonic() + patience
        _, answering, talking = self._threads
        end = time.monotonic() + _LAST_WORDS
        while answering.is_alive() and time.monotonic() < end and _document(b"".join(self._out)) is None:
            answering.join(_LAST_WORDS / 20)
        talking.join(_LAST_WORDS / 20)
        while not self._lines.empty():
            self._pass_on(progress, message)

    def _pass_on(self, progress: Callable[[float], object] | None, message: Callable[[str], object] | None) -> None:
        try:
            line = self._lines.get(timeout=_LOOK)
        except queue.Empty:
            return
        if line is None:
            self.wait(_LOOK)  # it said its last word: it ends now
            return
        percent = _PERCENT.match(line)
        if percent:
            if progress is not None:
                progress(float(percent.group(1)))
            return
        self._last.append(line)
        if message is not None and line.strip():
            message(line)

    def stop(self) -> None:
        """Have the publish interrupted: it is rolled back unless its end is decided already."""
        with self._lock:
            if not self._is_stopped:
                self._is_stopped = True
                if self._is_sent:
                    self._close_input()
                else:  # it has not read its request, and so it has not begun
                    with contextlib.suppress(OSError):
                        self._child.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for the end of the program, but not longer than that."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)

    def close(self) -> None:
        """Let go of the program. One that still runs is interrupted by that."""
        if self._child.poll() is None:
            self.stop()
        else:
            with self._lock:
                self._is_over = True
                if self._is_sent:
                    self._close_input()
            for thread, pipe in zip(self._threads[1:], (self._child.stdout, self._child.stderr)):
                if not thread.is_alive():  # else somebody else holds the pipe, and closing it would wait for the reader
                    pipe.close()

    # --- its answer -------------------------------------------------------------------------------------------------

    def answer(self) -> dict[str, Any]:
        """What the program answered. Raises `PublishFailed`."""
        answer = _document(b"".join(self._out))
        if answer is None and self._is_stopped and not self._is_whole:
            message = "The publish was interrupted before it began. Nothing was touched."
            raise PublishFailed("interrupted", message, outcome="rolled_back", publish_id=self._publish_id)
        if answer is None:
            code = self._child.returncode
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            raise self._unanswered(how + " and gave no answer")
        error = answer.get("error")
        # The answer, not the exit code: a host that reaps children by itself takes the code from us.
        if answer.get("outcome") in _DONE and not error:
            return answer
        error = error if isinstance(error, dict) else {}
        raise PublishFailed(
            error.get("code") or "error",
            error.get("message") or "the publish failed",
            outcome=answer.get("outcome") or "refused",
            next=error.get("next") or "",
            transaction=answer.get("transaction") or "",
            publish_id=self._publish_id,
            exit_code=self._child.returncode,
            answer=answer,
            said=list(self._last),
        )

    def _unanswered(self, what: str) -> PublishFailed:
        said = "".join("\n  " + line for line in list(self._last)[-5:])
        return PublishFailed(
            "no_answer",
            f"The program that publishes {what}. Everything is published or nothing; which of the two is not known here.{said}",
            outcome="in_doubt",
            next=f"integrator recover, then publish again under the publish id {self._publish_id}",
            publish_id=self._publish_id,
            exit_code=self._child.returncode,
            said=list(self._last),
        )

    # --- in threads of their own ------------------------------------------------------------------------------------

    def _send(self, line: bytes) -> None:
        """Write the request. The pipe stays open after it: its end is the end of the publish."""
        if hasattr(signal, "pthread_sigmask"):
            # An embedded interpreter may have left SIGPIPE deadly; this thread gets an error instead.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        rest = memoryview(line)
        try:
            while rest and not self._is_stopped:
                rest = rest[self._child.stdin.write(rest[: 1 << 16]) :]
            self._is_whole = not rest
        except (OSError, ValueError):
            pass  # it ended, and says why
        with self._lock:
            self._is_sent = True
            if self._is_stopped or self._is_over:
                self._close_input()

    def _close_input(self) -> None:
        _held.discard(self._child.stdin)
        with contextlib.suppress(OSError):
            self._child.stdin.close()

    def _read_answer(self) -> None:
        for piece in _pieces(self._child.stdout):
            self._out.append(piece)

    def _read_lines(self) -> None:
        rest = b""
        for piece in _pieces(self._child.stderr):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._lines.put(line.decode("utf-8", "backslashreplace").rstrip("\r"))
        if rest:
            self._lines.put(rest.decode("utf-8", "backslashreplace"))
        self._lines.put(None)


def _pieces(pipe: IO[bytes]) -> Iterable[bytes]:
    while True:
        try:
            piece = pipe.read(1 << 16)
        except (OSError, ValueError):
            return
        if not piece:
            return
        yield piece


def _document(out: bytes) -> dict[str, Any] | None:
    """The answer on standard output, also behind what a launcher printed before it."""
    text = out.decode("utf-8", "replace")
    starts = [0, *[found.start() for found in re.finditer(r"^\{", text, re.MULTILINE)][::-1]]
    for start in starts[:100]:
        try:
            found = json.loads(text[start:])
        except ValueError:
            continue
        if isinstance(found, dict) and "outcome" in found:
            return found
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
