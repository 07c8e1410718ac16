"""The page of a report: one HTML file that needs nothing else, neither network nor script, and opens at once.

Long lists are cut; the JSON document beside the page has all of them.
"""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from typing import Final

import attrs

from integrator.report import Attempt, FileList, Moment, PluginRun, Report, ReportedVersion, Wanted
from integrator.report.elements import Content, Html, element, element_alone
from integrator.report.sequences import FileGroup, collapse
from integrator.wording import duration, plural, size

#: Rows of single files on a page, and in one sequence.
_FILES, _FILES_TOGETHER = 2000, 200
#: Files, sequences or folders that a list shows.
_GROUPS: Final = 60
_VERSIONS: Final = 100
_PROBLEMS: Final = 100
_PLUGINS: Final = 300
_RUNS: Final = 50
_RECORDS: Final = 200
_MOMENTS: Final = 200
_ATTEMPTS: Final = 50

#: Without any of it, a page that somebody smuggled something into would still load nothing.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


# --- outcomes ---------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Verdict:
    """How an outcome is shown."""

    #: good, bad, wait or calm.
    tone: str
    mark: str
    headline: str
    #: What it means for the files.
    means: str


_OUTCOMES: Final = {
    "published": _Verdict(tone="good", mark="✓", headline="Published", means="All of it is in place, complete and durable."),
    "already_published": _Verdict(
        tone="good",
        mark="✓",
        headline="Published already",
        means="An earlier run with this publish id published it. This run wrote nothing.",
    ),
    "planned": _Verdict(tone="calm", mark="?", headline="Would publish", means="Everything was checked, nothing was written."),
    "rolled_back": _Verdict(
        tone="bad",
        mark="✕",
        headline="Not published",
        means="It failed and was rolled back: files and documents are as before.",
    ),
    "refused": _Verdict(tone="bad", mark="✕", headline="Refused", means="Nothing was touched."),
    "busy": _Verdict(
        tone="wait", mark="…", headline="Busy", means="Somebody else is publishing this right now. Nothing was touched."
    ),
    "in_doubt": _Verdict(
        tone="wait",
        mark="!",
        headline="In doubt",
        means="How this publish ends is not settled. Nothing was removed that may still be wanted.",
    ),
}
_INTERRUPTED: Final = _Verdict(
    tone="wait",
    mark="■",
    headline="Interrupted",
    means="It was stopped, and nothing is published: files and documents are as before.",
)
#: What an exit code means for whoever would run it again.
_AGAIN: Final = {
    1: "Running it again may help once; it is a bug that should be reported.",
    2: "Running the same again will not help: the call or the request has to be changed.",
    3: "Running the same again will not help: what is listed has to be mended first.",
    4: "Run it again later.",
    5: "Mend the cause and run it again.",
    6: "Recover first, then run it again.",
    7: "It was tried as often as it may be. Mend the cause first.",
    8: "Running the same again will not help: this program is older than the database, or an upgrade is pending.",
    129: "Run the same again.",
    130: "Run the same again.",
    143: "Run the same again.",
}


def _verdict(report: Report) -> _Verdict:
    if report.outcome == "rolled_back" and report.error is not None and report.error.code == "interrupted":
        return _INTERRUPTED
    fallback = _Verdict(tone="wait", mark="!", headline=report.outcome.replace("_", " "), means="")
    return _OUTCOMES.get(report.outcome, fallback)


# --- the page ---------------------------------------------------------------------------------------------------------


def render(report: Report, beside: str) -> str:
    """The whole page; `beside` is the name of the JSON document."""
    verdict = _verdict(report)
    budget = _Rows(_FILES)
    what = _what(report)
    body = element(
        "main",
        _outcome(report, verdict, what),
        _why(report),
        _versions(report, budget),
        _plugins(report.plugins),
        _wanted(report) if not report.versions else None,
        _staged(report, budget),
        _timeline(report.timeline),
        _attempts(report.attempts),
        _facts(report),
        _notes(report),
        _footer(report, beside),
        class_=verdict.tone,
    )
    style = resources.files("integrator.report").joinpath("page.css").read_text("utf-8")
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="referrer" content="no-referrer">'),
        Html('<link rel="icon" href="data:,">'),
        element("title", ": ".join(filter(None, [verdict.headline, what or report.publish_id]))),
        element("style", Html(style)),
    ]
    return f'<!DOCTYPE html>\n<html lang="en">\n{element("head", head)}\n{element("body", body)}\n</html>\n'


class _Rows:
    """How many rows of files there may still be."""

    def __init__(self, count: int) -> None:
        self._left = count

    def take(self, count: int) -> int:
        """As many of `count` rows as there may be."""
        taken = min(count, self._left, _FILES_TOGETHER)
        self._left -= taken
        return taken


def _what(report: Report) -> str:
    """What it is about, in a line."""
    if report.versions:
        names = [f"{version.asset} {version.subset} v{version.version:03d}" for version in report.versions]
    else:
        names = [f"{wanted.asset} {wanted.subset}" for wanted in report.wanted]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _outcome(report: Report, verdict: _Verdict, what: str) -> Html:
    picture = report.thumbnail
    return element(
        "header",
        element("div", verdict.mark, class_="mark", aria_hidden="true"),
        element(
            "div",
            element("h1", verdict.headline),
            element("p", what, class_="what") if what else None,
            element("p", verdict.means, class_="means") if verdict.means else None,
            element("p", _who(report), class_="who"),
            class_="words",
        ),
        element_alone("img", src=_url(picture.type, picture.content), alt="thumbnail") if picture else None,
        class_="outcome",
    )


def _who(report: Report) -> str:
    took = duration(max(0.0, report.ended - report.started))
    return f"{report.user} on {report.host}, {_date(report.started)}, took {took}"


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _why(report: Report) -> Html | None:
    error = report.error
    if error is None and not report.left:
        return None
    parts = []
    if error is not None:
        problems = [
            element("li", element("code", where), element("span", what)) for where, what in error.problems[:_PROBLEMS]
        ] + _more(len(error.problems) - _PROBLEMS, "problem", "li")
        parts.append(
            element(
                "div",
                element("h2", "What happened"),
                element("p", error.message, class_="message"),
                element("ul", problems, class_="problems") if problems else None,
                class_="inside",
            )
        )
        again = _AGAIN.get(report.exit_code)
        if again or error.next:
            parts.append(
                element(
                    "div",
                    element("h2", "What to do now"),
                    element("p", again) if again else None,
                    element("code", error.next, class_="command") if error.next else None,
                    class_="inside",
                )
            )
    if report.left:
        left = [element("li", text) for text in report.left[:_PROBLEMS]] + _more(len(report.left) - _PROBLEMS, "place", "li")
        parts.append(element("div", element("h2", "Left where it is"), element("ul", left, class_="problems"), class_="inside"))
    return element("section", parts, class_="card why")


def _facts(report: Report) -> Html:
    facts = {
        "Project": report.project,
        "Author": report.author,
        "Comment": report.comment,
        "Publish id": report.publish_id,
        "Transaction": report.transaction,
        "Publish root": report.root,
        "Run by": f"{report.user} on {report.host} (process {report.process})",
        "Started": _date(report.started),
        "Took": duration(max(0.0, report.ended - report.started)),
        "Exit code": str(report.exit_code),
    }
    listed = [element("div", element("dt", name), element("dd", value)) for name, value in facts.items() if value]
    return _section("About this run", "", [element("dl", listed, class_="facts inside")])


def _section(title: str, beside: str, content: Sequence[Content]) -> Html:
    small = element("small", beside) if beside else None
    return element("section", element("h2", title, small), element("div", content, class_="card"))


def _more(count: int, word: str, tag: str = "p") -> list[Html]:
    return [element(tag, f"and {plural(count, f'more {word}')}: see the JSON document", class_="more")] if count > 0 else []


# --- files ------------------------------------------------------------------------------------------------------------


def _versions(report: Report, budget: _Rows) -> Html | None:
    if not report.versions:
        return None
    lists = [entry for version in report.versions for entry in (*version.representations, *version.resources)]
    cards = [_version(version, budget) for version in report.versions[:_VERSIONS]]
    cards += _more(len(report.versions) - _VERSIONS, "version")
    title = "What would be published" if report.outcome == "planned" else "What is published"
    return element("section", element("h2", title, element("small", _amount(lists))), cards)


def _amount(lists: Sequence[FileList]) -> str:
    count, sizes = sum(len(entry.names) for entry in lists), [entry.size for entry in lists]
    known = [found for found in sizes if found is not None]
    return plural(count, "file") + (f", {size(sum(known))}" if len(known) == len(sizes) else "")


def _version(version: ReportedVersion, budget: _Rows) -> Html:
    return element(
        "article",
        element(
            "div",
            element(
                "div",
                element("span", f"v{version.version:03d}", class_="number"),
                element("h3", f"{version.asset} {version.subset}"),
                element("span", f"{version.family}, project {version.project}", class_="soft"),
                class_="heads",
            ),
            element("code", version.path, class_="path"),
            class_="inside",
        ),
        [_files(entry, budget) for entry in (*version.representations, *version.resources)],
        class_="card",
    )


def _files(files: FileList, budget: _Rows) -> list[Html]:
    groups = collapse(files.names)
    rows = [_group(files, group, budget, first=n == 0) for n, group in enumerate(groups[:_GROUPS])]
    return rows + _more(len(groups) - _GROUPS, "file or sequence")


def _group(files: FileList, group: FileGroup, budget: _Rows, *, first: bool) -> Html:
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
    more = _more(len(group.places) - taken, "file")
    return element("details", element("summary", head, class_="row sequence"), table if shown_places else None, more)


def _file(files: FileList, place: int) -> Html:
    count = files.sizes[place]
    return element(
        "tr",
        element("td", files.names[place], class_="name"),
        element("td", "" if count is None else size(count), class_="amount", title="" if count is None else f"{count} bytes"),
        element("td", files.checksums[place], class_="name digest soft"),
    )


def _staged(report: Report, budget: _Rows) -> Html | None:
    if not report.staged:
        return None
    cards = [
        element("article", element("div", element("code", entry.folder, class_="path"), class_="inside"), _files(entry, budget),
                class_="card")
        for entry in report.staged[:_VERSIONS]
    ]  # fmt: skip
    cards += _more(len(report.staged) - _VERSIONS, "version")
    return element("section", element("h2", "How far it came", element("small", f"staged: {_amount(report.staged)}")), cards)


def _wanted(report: Report) -> Html | None:
    if not report.wanted:
        return None
    cards = [_wish(wanted) for wanted in report.wanted[:_VERSIONS]] + _more(len(report.wanted) - _VERSIONS, "publish instance")
    return element("section", element("h2", "What was to be published"), cards)


def _wish(wanted: Wanted) -> Html:
    asset = "/".join(filter(None, [wanted.hierarchy, wanted.asset]))
    rows = []
    for name, files in wanted.representations[:_GROUPS]:
        label = [files[0], f" and {len(files) - 1} more" if len(files) > 1 else ""] if files else [""]
        rows.append(
            element("div", element("span", name, class_="kind"), element("span", label, class_="name"), class_="row sequence")
        )
    head = element(
        "div", element("h3", f"{asset} {wanted.subset}"), element("span", wanted.family, class_="soft"), class_="heads"
    )
    return element("article", element("div", head, class_="inside"), rows, class_="card")


# --- plugins ----------------------------------------------------------------------------------------------------------


def _plugins(runs: Sequence[PluginRun]) -> Html | None:
    if not runs:
        return None
    groups = [list(group) for _, group in groupby(runs, key=lambda run: (run.name, run.label, run.order))]
    longest = max(sum(run.seconds for run in group) for group in groups) or 1.0
    failed = [group for group in groups if any(run.error for run in group)]
    # What failed is shown, wherever the list is cut.
    listed = groups[:_PLUGINS] + [group for group in groups[_PLUGINS:] if any(run.error for run in group)][:_PLUGINS]
    rows = [_plugin(group, longest) for group in listed] + _more(len(groups) - len(listed), "plugin")
    total = sum(run.seconds for run in runs)
    said = f"{plural(len(groups), 'plugin')} in {duration(total)}" + (f", {len(failed)} failed" if failed else "")
    return _section("Plugins", said, rows)


def _plugin(runs: Sequence[PluginRun], longest: float) -> Html:
    """One plugin with all publish instances it was run on."""
    seconds = sum(run.seconds for run in runs)
    failed = any(run.error for run in runs)
    warned = any(_tone(level) for run in runs for level, _ in run.records)
    name = runs[0].name
    label = runs[0].label or name
    instances = runs[0].instance if len(runs) == 1 else plural(len(runs), "publish instance")
    about = ", ".join(filter(None, [name if name != label else "", instances]))
    width = max(0.0, min(100.0, 100.0 * seconds / longest))
    head = [
        element("span", class_="dot bad" if failed else "dot wait" if warned else "dot"),
        element("span", label, " ", _soft(about) if about else None),
        element("span", f"{runs[0].order:g}", class_="amount order", title="order"),
        element("span", element("i", style=f"width:{width:.1f}%"), class_="track"),
        element("span", _seconds(seconds), class_="amount"),
    ]
    if not any(run.error or run.records for run in runs) and len(runs) == 1:
        return element("div", head, class_="row plugin")
    # Those that failed first, whatever their number.
    ordered = sorted(runs, key=lambda run: not run.error) if len(runs) > _RUNS else runs
    inner = [_run(run, alone=len(runs) == 1) for run in ordered[:_RUNS]] + _more(len(runs) - _RUNS, "publish instance")
    opened = {"open": "open"} if failed else {}
    return element("details", element("summary", head, class_="row plugin"), element("div", inner, class_="runs"), **opened)


def _run(run: PluginRun, *, alone: bool) -> Html:
    records = [
        element("li", element("span", level, class_=f"level {_tone(level)}".rstrip()), element("span", text, class_="message"))
        for level, text in run.records[:_RECORDS]
    ] + _more(len(run.records) - _RECORDS, "record", "li")
    return element(
        "div",
        None if alone else element("div", element("b", run.instance or "context"), " ", _soft(_seconds(run.seconds))),
        element("pre", run.error, class_="failed message") if run.error else None,
        element("ul", records, class_="records") if records else None,
        class_="run",
    )


def _soft(text: str) -> Html:
    return element("span", text, class_="soft")


def _tone(level: str) -> str:
    name = level.lower()
    return "bad" if name in ("error", "critical", "fatal") else "wait" if name.startswith("warn") else ""


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if 0 <= seconds < 0.9995 else duration(seconds)


# --- what happened when -----------------------------------------------------------------------------------------------


def _timeline(moments: Sequence[Moment]) -> Html | None:
    if not moments:
        return None
    first = next((moment.time for moment in moments if moment.time is not None), None)
    shown_moments = list(moments)
    if len(moments) > _MOMENTS:
        half = _MOMENTS // 2
        gap = f"{len(moments) - 2 * half:,} more: see the JSON document"
        shown_moments = [*moments[:half], Moment(time=None, kind="gap", text=gap, clock="journal"), *moments[-half:]]
    listed = element("ol", [_moment(moment, first) for moment in shown_moments], class_="moments")
    date = time.strftime("%Y-%m-%d, %Z", time.localtime(first)) if first is not None else ""
    return _section("Timeline of the transaction", date, [listed])


def _moment(moment: Moment, first: float | None) -> Html:
    clock = by = ""
    if moment.time is not None:
        clock = f"{time.strftime('%H:%M:%S', time.localtime(moment.time))}.{int(moment.time * 1000) % 1000:03d}"
        by = "clock of the database" if moment.clock == "database" else "clock of the process that published"
    offset = f"{moment.time - first:+.3f} s" if moment.time is not None and first is not None else ""
    good, bad = ("committed", "finished"), ("rolled_back", "stuck", "torn")
    tone = "verdict" if moment.kind in good else "undone" if moment.kind in bad else "moment"
    return element(
        "li",
        element("time", clock, title=by),
        element("span", offset, class_="offset"),
        element("span", moment.text, class_=tone),
    )


def _attempts(attempts: Sequence[Attempt]) -> Html | None:
    if not attempts:
        return None
    rows = [
        element(
            "tr",
            element("td", _date(attempt.started), class_="date"),
            element("td", attempt.host, class_="date"),
            element("td", attempt.error or "it was killed, or its process is gone", class_="message"),
            element("td", attempt.transaction, class_="name digest soft"),
        )
        for attempt in attempts[-_ATTEMPTS:]
    ]
    head = [element("th", name) for name in ("started", "on", "why it failed")]
    table = element("table", element("tr", head, element("th", "transaction", class_="digest")), rows)
    more = _more(len(attempts) - _ATTEMPTS, "attempt")
    counted = sum(attempt.counts for attempt in attempts)
    return _section("Attempts before this one", f"{len(attempts)}, {counted} of them count", [*more, table])


def _notes(report: Report) -> Html | None:
    if not report.notes:
        return None
    listed = element("ul", [element("li", note) for note in report.notes], class_="notes inside")
    return _section("What this report could not find out", "", [listed])


def _footer(report: Report, beside: str) -> Html:
    return element(
        "footer", f"integrator {report.engine}, {_date(report.ended)}. Everything on this page, and what was too long for it: ",
        element("code", beside),
    )  # fmt: skip


def _date(moment: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(moment)).strip() if moment else ""
