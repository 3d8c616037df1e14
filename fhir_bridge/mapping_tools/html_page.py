"""One HTML page that stands alone: no script, no font, no image, nothing fetched.

For reports that an engineer mails to a hospital. Everything that comes from a sample or a pack is escaped here, in
one place; the page forbids itself to load anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape as escaped

_JOINT = re.compile(r"[./|_]")
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #d9dee6; --page: #fff; --band: #f5f7fa;
  --bar: #9dc3e6; --good: #1a7f4b; --bad: #b3261e; --doubt: #8a5a00; --old: #fdecea; --new: #e8f5ec }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b4; --line: #333c48; --page: #14181d;
  --band: #1b2128; --bar: #2f5f8a; --good: #6fcf97; --bad: #f28b82;
  --doubt: #f2c14e; --old: #3a2020; --new: #18311f } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 74rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem }
p { margin: .2rem 0 .8rem; max-width: 60rem; color: var(--soft) }
nav { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: .3rem 1rem } a { color: inherit }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; padding: 0; list-style: none }
.facts li { background: var(--band); border: 1px solid var(--line); border-radius: 8px; padding: .5rem 1rem;
  min-width: 8rem }
.facts b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums }
.facts span { color: var(--soft); font-size: .85rem }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
th, td { text-align: left; padding: .3rem .75rem; vertical-align: top; border-top: 1px solid var(--line);
  overflow-wrap: break-word; min-width: 6rem }
thead th { border-top: 0; background: var(--band); color: var(--soft); font-weight: 600; white-space: nowrap }
tbody th { font-weight: 400 }
.n { min-width: 0; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
tbody th, .code { font-family: ui-monospace, monospace; font-size: .85rem }
.share { min-width: 7rem } .share i { display: block; height: .55rem; margin-top: .4rem; border-radius: 3px;
  background: var(--bar) }
.good, .bad, .doubt { white-space: nowrap } .good { color: var(--good) } .bad { color: var(--bad) }
.doubt { color: var(--doubt) }
del { background: var(--old); text-decoration: none } ins { background: var(--new); text-decoration: none }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem }
"""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, drawn as a bar."""

    part: float


@dataclass(frozen=True, slots=True)
class Tinted:
    """A text with a judgement: ``good``, ``bad`` or ``doubt``; the words say it, too, not the colour alone."""

    text: str
    tint: str


@dataclass(frozen=True, slots=True)
class Swap:
    """What stood and what stands instead."""

    before: str
    after: str


Cell = str | int | Share | Tinted | Swap


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence and a table; ``empty`` is said instead of a table without rows."""

    title: str
    words: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    empty: str = "None."


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    words: str
    facts: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    foot: str = ""


def escape(text: str) -> str:
    """Text for a page; what no page can show, or what would turn its letters around, is written out."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped(text)


def written(page: Page) -> str:
    """Write a page as one HTML document."""
    return "".join(_document(page))


def _document(page: Page) -> Iterable[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{escape(page.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    yield f"<header>\n<h1>{escape(page.title)}</h1>\n<p>{escape(page.words)}</p>\n</header>\n"
    facts = "".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in page.facts)
    yield f'<ul class="facts">{facts}</ul>\n' if facts else ""
    links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(page.sections))
    yield f'<nav aria-label="Sections">{links}</nav>\n<main>\n'
    for index, section in enumerate(page.sections):
        yield from _section(index, section)
    yield f"</main>\n<footer>{escape(page.foot)}</footer>\n</body>\n</html>\n"


def _section(index: int, section: Section) -> Iterable[str]:
    title = escape(section.title)
    yield f'<section aria-labelledby="s{index}">\n<h2 id="s{index}">{title}</h2>\n<p>{escape(section.words)}</p>\n'
    if section.rows:
        numeric = [isinstance(cell, int) for cell in section.rows[0]]
        yield f'<div class="wide"><table>\n<caption>{title}</caption>\n<thead><tr>'
        for name, is_number in zip(section.head, numeric, strict=True):
            yield f'<th scope="col"{_class("n" if is_number else "")}>{escape(name)}</th>'
        yield "</tr></thead>\n<tbody>\n"
        for row in section.rows:
            yield "<tr>" + "".join(_cell(cell, is_head=i == 0) for i, cell in enumerate(row)) + "</tr>\n"
        yield "</tbody>\n</table></div>\n"
    else:
        yield f"<p>{escape(section.empty)}</p>\n"
    yield "</section>\n"


def _cell(cell: Cell, *, is_head: bool) -> str:
    if is_head:
        text = cell.text if isinstance(cell, Tinted) else cell
        return f'<th scope="row">{_breakable(str(text))}</th>'
    if isinstance(cell, int):
        return f'<td class="n">{cell:,}</td>'
    if isinstance(cell, Share):
        percent = 100 * cell.part
        return f'<td class="share" title="{percent:.1f} %"><i style="width:{percent:.1f}%"></i></td>'
    if isinstance(cell, Tinted):
        return f'<td class="{escape(cell.tint)}">{escape(cell.text)}</td>'
    if isinstance(cell, Swap):
        parts = [f"<{tag}>{_breakable(t)}</{tag}>" for tag, t in (("del", cell.before), ("ins", cell.after)) if t]
        return f'<td class="code">{" → ".join(parts)}</td>'
    return f"<td>{_breakable(cell)}</td>"


def _breakable(text: str) -> str:
    """Escaped, and free to go on in the next line behind what joins paths and addresses."""
    return _JOINT.sub(r"\g<0><wbr>", escape(text))


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
