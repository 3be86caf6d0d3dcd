"""Parse HTML strictly: report unbalanced tags, missing texts, requests and scripts."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "br", "hr", "input"}
_ADDRESSES = ("src", "href", "data", "action", "srcset", "poster", "formaction", "xlink:href")


@dataclass(eq=False)
class Document(HTMLParser):
    """A parsed page.

    Attributes:
        problems: What is wrong with the structure.
        elements: Tag and attributes of each element, in order.
        text: Visible text of the page.
    """

    source: str
    problems: list[str] = field(default_factory=list)
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.source)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self._open]
        self.problems += _structure_problems(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.problems.append(f"<{tag}> repeats an attribute: {names}")
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements with a tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def _structure_problems(page: Document) -> list[str]:
    """Return what a page lacks for readers without scripts, without sight, and without a network."""
    found = []
    if not page.source.startswith("<!doctype html>"):
        found.append("no doctype")
    if [a.get("lang") for a in page.all("html")] != ["en"]:
        found.append("no language")
    ids = [a["id"] for _, a in page.elements if "id" in a]
    found += [f"id {name!r} is used twice" for name in set(ids) if ids.count(name) > 1]
    for tag, attributes in page.elements:
        found += _element_problems(tag, attributes, set(ids))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    if levels.count(1) != 1 or any(b > a + 1 for a, b in itertools.pairwise(levels)):
        found.append(f"levels of the headings: {levels}")
    return found


def _element_problems(tag: str, attributes: dict[str, str | None], ids: set[str | None]) -> list[str]:
    found = []
    if tag in {"script", "iframe", "object", "embed", "form", "base"}:
        found.append(f"<{tag}>")
    found += [f"<{tag} {name}>" for name in attributes if name == "style" or name.startswith("on")]
    if tag == "img" and not attributes.get("alt"):
        found.append("a picture without a text")
    if tag == "th" and attributes.get("scope") not in {"row", "col"}:
        found.append("a header cell without a scope")
    for name in _ADDRESSES:
        address = attributes.get(name)
        if address is None:
            continue
        if address.startswith("#"):
            if address[1:] not in ids:
                found.append(f"{address} leads nowhere")
        elif not address.startswith(("data:image/jpeg;base64,", "./")) and address != "data:,":
            found.append(f"<{tag} {name}={address[:60]!r}>")
    for name in ("aria-labelledby", "aria-describedby"):
        if name in attributes and attributes[name] not in ids:
            found.append(f"{name}={attributes[name]!r} leads nowhere")
    return found
