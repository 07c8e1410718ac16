"""The part of a page that tells of plugins: how long each took, what it logged, what it failed with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from integrator.report import PluginRun
from integrator.report.elements import Html, element, more, section, soft
from integrator.wording import duration, plural

#: Plugins that are listed; publish instances of one of them, and of all.
_PLUGINS, _RUNS_TOGETHER, _RUNS = 300, 50, 600
#: Log records of one run, and of all; characters of one text, and of all.
_RECORDS_TOGETHER, _RECORDS = 200, 1500
_LONGEST, _CHARACTERS = 4000, 400_000


class _Room:
    """What there is room for on the page. What failed comes first, wherever it stands: nobody opens a report for the rest."""

    def __init__(self, runs: Sequence[PluginRun]) -> None:
        self._errors: dict[int, str] = {}
        self._records: dict[int, int] = {}
        characters, records = _CHARACTERS, _RECORDS
        for run in sorted(runs, key=lambda run: not run.error)[:_RUNS]:
            error = _shortened(run.error, min(_LONGEST, max(characters, 200)))
            characters -= len(error)
            count = 0
            for _, text in run.records[: min(_RECORDS_TOGETHER, records)]:
                characters -= min(len(text), _LONGEST)
                if characters < 0:
                    break
                count += 1
            records -= count
            self._errors[id(run)], self._records[id(run)] = error, count

    def has(self, run: PluginRun) -> bool:
        """Whether a run is told of by itself."""
        return id(run) in self._errors

    def error(self, run: PluginRun) -> str:
        return self._errors[id(run)]

    def records(self, run: PluginRun) -> Sequence[tuple[str, str]]:
        return [(level, _shortened(text, _LONGEST)) for level, text in run.records[: self._records[id(run)]]]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ... {len(text) - most:,} more characters"


def plugin_runs(runs: Sequence[PluginRun]) -> Html | None:
    """The plugins in the order they ran, each with its publish instances."""
    if not runs:
        return None
    room = _Room(runs)
    groups = [list(group) for _, group in groupby(runs, key=lambda run: (run.name, run.label, run.order))]
    longest = max(sum(run.seconds for run in group) for group in groups) or 1.0
    failed = [group for group in groups if any(run.error for run in group)]
    # What failed is shown, wherever the list is cut.
    listed = groups[:_PLUGINS] + [group for group in groups[_PLUGINS:] if any(run.error for run in group)][:_PLUGINS]
    rows = [_plugin(group, longest, room) for group in listed] + more(len(groups) - len(listed), "plugin")
    total = sum(run.seconds for run in runs)
    said = f"{plural(len(groups), 'plugin')} in {duration(total)}" + (f", {len(failed)} failed" if failed else "")
    return section("Plugins", said, rows)


def _plugin(runs: Sequence[PluginRun], longest: float, room: _Room) -> Html:
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
        element("span", label, " ", soft(about) if about else None),
        element("span", f"{runs[0].order:g}", class_="amount order", title="order"),
        element("span", element("i", style=f"width:{width:.1f}%"), class_="track"),
        element("span", _seconds(seconds), class_="amount"),
    ]
    told = [run for run in runs if room.has(run)]
    # Those that failed first where not all of them are shown.
    told = sorted(told, key=lambda run: not run.error)[:_RUNS_TOGETHER] if len(told) > _RUNS_TOGETHER else told
    if not told or (len(runs) == 1 and not runs[0].error and not runs[0].records):
        return element("div", head, class_="row plugin")
    inner = [_run(run, room, alone=len(runs) == 1) for run in told] + more(len(runs) - len(told), "publish instance")
    opened = {"open": "open"} if failed else {}
    return element("details", element("summary", head, class_="row plugin"), element("div", inner, class_="runs"), **opened)


def _run(run: PluginRun, room: _Room, *, alone: bool) -> Html:
    error, records = room.error(run), room.records(run)
    listed = [
        element("li", element("span", level, class_=f"level {_tone(level)}".rstrip()), element("span", text, class_="message"))
        for level, text in records
    ] + more(len(run.records) - len(records), "record", "li")
    return element(
        "div",
        None if alone else element("div", element("b", run.instance or "context"), " ", soft(_seconds(run.seconds))),
        element("pre", error, class_="failed message") if error else None,
        element("ul", listed, class_="records") if listed else None,
        class_="run",
    )


def _tone(level: str) -> str:
    name = level.lower()
    return "bad" if name in ("error", "critical", "fatal") else "wait" if name.startswith("warn") else ""


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if 0 <= seconds < 0.9995 else duration(seconds)
