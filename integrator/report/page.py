"""The page of a report: one HTML file that needs nothing else, neither network nor script, and opens at once.

Long lists are cut; the JSON document beside the page has all of them.
"""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Sequence
from importlib import resources
from typing import Final

import attrs

from integrator.report import Attempt, Moment, Report
from integrator.report.elements import Html, element, element_alone, more, section
from integrator.report.listings import Rows, staged, versions, wanted
from integrator.report.plugin_runs import plugin_runs
from integrator.wording import duration

#: Entries of a list that the page shows.
_PROBLEMS: Final = 100
_MOMENTS: Final = 200
_ATTEMPTS: Final = 50
#: Characters that the line below the headline takes from names.
_LINE: Final = 200

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
    "busy": _Verdict(tone="wait", mark="…", headline="Busy", means="Somebody else holds the soft lock. Nothing was touched."),
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
    if report.outcome == "in_doubt" and report.error is not None and report.error.code not in ("in_doubt", "unanswered"):
        return attrs.evolve(_OUTCOMES["in_doubt"], headline="Not settled")
    fallback = _Verdict(tone="wait", mark="!", headline=report.outcome.replace("_", " "), means="")
    return _OUTCOMES.get(report.outcome, fallback)


# --- the page ---------------------------------------------------------------------------------------------------------


def render(report: Report, beside: str) -> str:
    """The whole page; `beside` is the name of the JSON document."""
    verdict = _verdict(report)
    budget = Rows()
    what = _what(report)
    body = element(
        "main",
        _outcome(report, verdict, what),
        _why(report),
        versions(report, budget),
        plugin_runs(report.plugins),
        wanted(report) if not report.versions else None,
        staged(report, budget),
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


def _what(report: Report) -> str:
    """What it is about, in a line."""
    if report.versions:
        names = [f"{version.asset} {version.subset} v{version.version:03d}" for version in report.versions]
    else:
        names = [f"{wanted.asset} {wanted.subset}" for wanted in report.wanted]
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    line = ", ".join(names[:3])
    return (line if len(line) <= _LINE else f"{line[:_LINE]} ...") + rest


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
        ] + more(len(error.problems) - _PROBLEMS, "problem", "li")
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
        left = [element("li", text) for text in report.left[:_PROBLEMS]] + more(len(report.left) - _PROBLEMS, "place", "li")
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
    return section("About this run", "", [element("dl", listed, class_="facts inside")])


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
    return section("Timeline of the transaction", date, [listed])


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
            "li",
            element("span", _date(attempt.started), class_="soft"),
            element("span", attempt.host),
            element("span", attempt.error or "it was killed, or its process is gone", class_="message"),
            element("span", attempt.transaction, class_="name soft"),
        )
        for attempt in attempts[-_ATTEMPTS:]
    ]
    rest = more(len(attempts) - _ATTEMPTS, "attempt")
    counted = sum(attempt.counts for attempt in attempts)
    return section(
        "Attempts before this one", f"{len(attempts)}, {counted} of them count", [*rest, element("ol", rows, class_="attempts")]
    )


def _notes(report: Report) -> Html | None:
    if not report.notes:
        return None
    listed = element("ul", [element("li", note) for note in report.notes], class_="notes inside")
    return section("What this report could not find out", "", [listed])


def _footer(report: Report, beside: str) -> Html:
    return element(
        "footer", f"integrator {report.engine}, {_date(report.ended)}. Everything on this page, and what was too long for it: ",
        element("code", beside),
    )  # fmt: skip


def _date(moment: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(moment)).strip() if moment else ""
