"""HTML by construction: nothing becomes part of a page but by `element`, which escapes every text.

What is not printable is written as an escape, so that no name can turn the direction of what stands around it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Union

from integrator.wording import plural, shown


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


#: What an element holds: HTML as it is, text to be escaped, nothing, or several of these.
Content = Union[str, None, Iterable["Content"]]


def element(tag: str, *content: Content, **attributes: str) -> Html:
    """An element; a `_` at the end of an attribute's name (``class_``) is left out, a `-` in it is written `_`."""
    named = "".join(f' {name.rstrip("_").replace("_", "-")}="{_escaped(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{named}>{_joined(content)}</{tag}>")


def element_alone(tag: str, **attributes: str) -> Html:
    """An element that holds nothing and has no end."""
    return Html(element(tag, **attributes).removesuffix(f"</{tag}>"))


def _joined(content: Iterable[Content]) -> str:
    return "".join(_html(part) for part in content)


def _html(part: Content) -> str:
    if part is None:
        return ""
    if isinstance(part, Html):
        return part
    return _escaped(part) if isinstance(part, str) else _joined(part)


def _escaped(text: str) -> str:
    """Text without anything that means something in HTML or is not printable; line ends are kept."""
    lines = text.expandtabs(4).split("\n") if "\t" in text or "\n" in text else [text]
    return html.escape("\n".join(shown(line) for line in lines))


def section(title: str, beside: str, content: Iterable[Content]) -> Html:
    """A card with its heading."""
    small = element("small", beside) if beside else None
    return element("section", element("h2", title, small), element("div", content, class_="card"))


def more(count: int, word: str, tag: str = "p") -> list[Html]:
    """What a list that was cut says of the rest; nothing if there is none."""
    return [element(tag, f"and {plural(count, f'more {word}')}: see the JSON document", class_="more")] if count > 0 else []


def soft(text: str) -> Html:
    """Text that says less."""
    return element("span", text, class_="soft")
