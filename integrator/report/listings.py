"""The part of a page that lists files: what is published, what was staged, what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from integrator.report import FileList, Report, ReportedVersion, Wanted
from integrator.report.elements import Html, element, more, soft
from integrator.report.sequences import FileGroup, collapse
from integrator.wording import plural, size

#: Rows of single files on a page, and in one sequence.
_FILES, _FILES_TOGETHER = 2000, 200
#: Files, sequences or folders that a list shows.
_GROUPS: Final = 60
_VERSIONS: Final = 100


class Rows:
    """How many rows of files there may still be."""

    def __init__(self) -> None:
        self._left = _FILES

    def take(self, count: int) -> int:
        """As many of `count` rows as there may be."""
        taken = min(count, self._left, _FILES_TOGETHER)
        self._left -= taken
        return taken


def versions(report: Report, budget: Rows) -> Html | None:
    if not report.versions:
        return None
    lists = [entry for version in report.versions for entry in (*version.representations, *version.resources)]
    cards = [_card(version, budget) for version in report.versions[:_VERSIONS]]
    cards += more(len(report.versions) - _VERSIONS, "version")
    title = "What would be published" if report.outcome == "planned" else "What is published"
    return element("section", element("h2", title, element("small", _amount(lists))), cards)


def _amount(lists: Sequence[FileList]) -> str:
    count, sizes = sum(len(entry.names) for entry in lists), [entry.size for entry in lists]
    known = [found for found in sizes if found is not None]
    return plural(count, "file") + (f", {size(sum(known))}" if len(known) == len(sizes) else "")


def _card(version: ReportedVersion, budget: Rows) -> Html:
    return element(
        "article",
        element(
            "div",
            element(
                "div",
                element("span", f"v{version.version:03d}", class_="number"),
                element("h3", f"{version.asset} {version.subset}"),
                soft(f"{version.family}, project {version.project}"),
                class_="heads",
            ),
            element("code", version.path, class_="path"),
            class_="inside",
        ),
        [_files(entry, budget) for entry in (*version.representations, *version.resources)],
        class_="card",
    )


def _files(files: FileList, budget: Rows) -> list[Html]:
    groups = collapse(files.names)
    rows = [_group(files, group, budget, first=n == 0) for n, group in enumerate(groups[:_GROUPS])]
    return rows + more(len(groups) - _GROUPS, "file or sequence")


def _group(files: FileList, group: FileGroup, budget: Rows, *, first: bool) -> Html:
    """A file, or a sequence that opens to its files."""
    sizes = [files.sizes[place] for place in group.places]
    known = [found for found in sizes if found is not None]
    single = len(group.places) == 1
    head = [
        element("span", (files.name or "staged") if first else "", class_="kind"),
        element("span", group.name, class_="name"),
        element("span", "" if single else plural(len(group.places), "file"), class_="amount"),
        element("span", size(sum(known)) if len(known) == len(sizes) else "", class_="amount"),
    ]
    if single and not files.checksums[group.places[0]]:
        return element("div", head, class_="row sequence")
    taken = budget.take(len(group.places))
    shown_places = group.places[:taken]
    table = element(
        "table",
        element("tr", element("th", "file"), element("th", "size", class_="amount"), element("th", "xxh3-128", class_="digest")),
        [_file(files, place) for place in shown_places],
    )
    rest = more(len(group.places) - taken, "file")
    return element("details", element("summary", head, class_="row sequence"), table if shown_places else None, rest)


def _file(files: FileList, place: int) -> Html:
    count = files.sizes[place]
    return element(
        "tr",
        element("td", files.names[place], class_="name"),
        element("td", "" if count is None else size(count), class_="amount", title="" if count is None else f"{count} bytes"),
        element("td", files.checksums[place], class_="name digest soft"),
    )


def staged(report: Report, budget: Rows) -> Html | None:
    if not report.staged:
        return None
    cards = [
        element("article", element("div", element("code", entry.folder, class_="path"), class_="inside"), _files(entry, budget),
                class_="card")
        for entry in report.staged[:_VERSIONS]
    ]  # fmt: skip
    cards += more(len(report.staged) - _VERSIONS, "version")
    return element("section", element("h2", "How far it came", element("small", f"staged: {_amount(report.staged)}")), cards)


def wanted(report: Report) -> Html | None:
    if not report.wanted:
        return None
    cards = [_wish(entry) for entry in report.wanted[:_VERSIONS]] + more(len(report.wanted) - _VERSIONS, "publish instance")
    return element("section", element("h2", "What was to be published"), cards)


def _wish(wanted: Wanted) -> Html:
    asset = "/".join(filter(None, [wanted.hierarchy, wanted.asset]))
    rows = []
    for name, files in wanted.representations[:_GROUPS]:
        label = [files[0], f" and {len(files) - 1} more" if len(files) > 1 else ""] if files else [""]
        rows.append(
            element("div", element("span", name, class_="kind"), element("span", label, class_="name"), class_="row sequence")
        )
    head = element("div", element("h3", f"{asset} {wanted.subset}"), soft(wanted.family), class_="heads")
    return element("article", element("div", head, class_="inside"), rows, class_="card")
