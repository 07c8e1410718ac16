"""A report becomes two files beside each other: NAME.json and NAME.html.

Each appears whole, and neither ever replaces anything: NAME is the transaction or the publish id, and a second report of the same
is NAME-2.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Final

import attrs

from integrator import storage
from integrator.model import Document, new_id
from integrator.report import Report
from integrator.report.page import render
from integrator.storage import Storage

#: Characters that a file name keeps; there is no publish id that gives "..", a leading dot or dash, or a folder.
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_+.-]+")
_MODE: Final = 0o664
#: Reports of one publish before somebody is told that something runs in circles.
_MOST: Final = 10_000


@attrs.frozen(kw_only=True)
class Written:
    """Absolute paths of the files of a report."""

    page: str
    document: str


def write(report: Report, folder: str, writer: Storage) -> Written:
    """Write a report into a folder, which is made if it is missing. Raises `OSError`."""
    folder = os.path.abspath(folder)
    os.makedirs(folder, exist_ok=True)
    stem, text = _stem(report), _laid_out(report.document())
    at = storage.open_root(folder)
    try:
        part = f".{new_id()}.part"
        try:
            writer.write_file(part, text, _MODE, at)
            name = _take_name(writer, stem, part, at)
        except BaseException:
            _remove(writer, part, at)
            raise
        # The page names its document, so it is made when that has its name; nobody else takes the same one from now on.
        try:
            writer.write_file(part, render(report, f"{name}.json").encode("utf-8"), _MODE, at)
            writer.rename(part, at, f"{name}.html", at)
        except BaseException:
            _remove(writer, part, at)
            raise
        writer.sync(at)
    finally:
        os.close(at)
    return Written(page=os.path.join(folder, f"{name}.html"), document=os.path.join(folder, f"{name}.json"))


def _stem(report: Report) -> str:
    wanted = report.publish_id if report.publish_id and not report.publish_id.startswith("run-") else ""
    stem = _UNFIT.sub("_", wanted or report.transaction or report.publish_id)[:100].lstrip(".-_")
    return stem or f"publish-{new_id()}"


def _take_name(writer: Storage, stem: str, part: str, at: int) -> str:
    """Give the document the first name that neither it nor its page would take from anything."""
    for number in range(1, _MOST):
        name = stem if number == 1 else f"{stem}-{number}"
        if storage.exists(f"{name}.html", at):
            continue
        with contextlib.suppress(FileExistsError):
            writer.rename(part, at, f"{name}.json", at)
            return name
    raise FileExistsError(f"{stem}.json and {_MOST} more are there")


def _remove(writer: Storage, name: str, at: int) -> None:
    with contextlib.suppress(OSError):
        writer.unlink(name, at)


def _laid_out(document: Document) -> bytes:
    """One line for each element of a list: nobody has to read 10,000 files in one line, and no indent is written by hand."""
    encode = json.JSONEncoder(default=list).encode  # ASCII: lone surrogates of file names become escapes
    lines = []
    for name, value in document.items():
        text = "[\n  " + ",\n  ".join(map(encode, value)) + "\n ]" if isinstance(value, list) and value else encode(value)
        lines.append(f" {encode(name)}: {text}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")
