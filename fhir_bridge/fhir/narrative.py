"""Refuse narrative that is not plain XHTML, above all what a browser would run.

For the validator. Other people's pages show these strings, so the tests are lists of what is allowed (FHIR R4
narrative.html, invariants txt-1 and txt-2), and what could act (scripts, handlers, frames, forms) is named apart,
with the issue type ``security``. The parser is expat with entities and DOCTYPE refused.
"""

from __future__ import annotations

import re
from xml.parsers import expat

from fhir_bridge.fhir.primitives import Problem

XHTML = "http://www.w3.org/1999/xhtml"

# narrative.html: chapters 7-11 (but section 4 of chapter 9) and 15 of HTML 4.0, <a>, images, style attributes.
_ELEMENTS_TEXT = """
    a abbr acronym address b bdo big blockquote br caption center cite code col colgroup dd del dfn div dl
    dt em font h1 h2 h3 h4 h5 h6 hr i img ins kbd li map area ol p pre q s samp small span strike strong sub
    sup table tbody td tfoot th thead tr tt u ul var
"""
_ELEMENTS = frozenset(_ELEMENTS_TEXT.split())
_ACTIVE_ELEMENTS_TEXT = """
    script style iframe frame frameset object embed applet form input button select textarea link meta base
    svg math audio video source template
"""
_ACTIVE_ELEMENTS = frozenset(_ACTIVE_ELEMENTS_TEXT.split())
_ATTRIBUTES_TEXT = """
    abbr accesskey align alt axis bgcolor border cellhalign cellpadding cellspacing cellvalign char charoff
    charset cite class clear color cols colspan compact coords datetime dir face frame headers height href
    hreflang hspace id ismap lang longdesc name noshade nowrap rel rev rowspan rules scope shape size span
    src start style summary tabindex title type usemap valign value vspace width xml:lang xml:space xmlns
"""
_ATTRIBUTES = frozenset(_ATTRIBUTES_TEXT.split())
_LINKS = frozenset({"href", "src", "cite", "longdesc", "usemap", "background"})
_LINK_SCHEMES = frozenset({"http", "https", "mailto", "tel", "ftp", "urn", "cid"})
_TAG = re.compile(r"<[^>]*>")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_IGNORED_BY_BROWSERS = re.compile(r"[\x00-\x20\x7f]")
_RUNS = re.compile(
    r"<(?:script|iframe|frameset|object|embed|applet)[\s/>]"
    r"|<[a-z][^<>]*[\s/\"']on(?:error|load|click|focus|toggle|begin|mouse[a-z]+|pointer[a-z]+|animation[a-z]+)\s*=",
    re.IGNORECASE,
)
_ACTIVE_STYLE = re.compile(
    r"expression\s*\(|url\s*\(|@import|behavior\s*:|-moz-binding|javascript:|\\", re.IGNORECASE
)


def check_narrative(text: str) -> Problem | None:
    """Return what is wrong with ``Narrative.div``, or None.

    The first fault is reported; an active one wins over an inert one.
    """
    reader = _Reader()
    problem = reader.read(text)
    active = next((f for f in reader.faults if f.code == "security"), None)
    if active or problem:
        return active or problem
    return reader.faults[0] if reader.faults else None


def is_blank(text: str) -> bool:
    """Tell whether well-formed narrative shows nothing (txt-2, which HL7's own examples break)."""
    return "<img" not in text and not _TAG.sub("", text).strip()


def is_active(text: str) -> bool:
    """Tell whether a text that is no narrative would be run by a page that shows it without escaping it.

    No more is asked: ``<`` stands in many a finding (``<base excess>``, ``<b onset = 3 days``).
    """
    return _RUNS.search(text) is not None


class _Doctype(Exception):
    """The narrative declares a document type."""


class _Reader:
    """Collects faults while expat reads."""

    def __init__(self) -> None:
        self.faults: list[Problem] = []
        self._depth = 0

    def read(self, text: str) -> Problem | None:
        """Parse; return why it is not well-formed, or None."""
        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._doctype
        parser.ProcessingInstructionHandler = self._instruction
        try:
            parser.Parse(text.encode(), True)
        except _Doctype:
            return None
        except expat.ExpatError:
            return Problem("structure", "the narrative must be well-formed XHTML")
        return None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._depth and (name != "div" or attributes.get("xmlns") != XHTML):
            self._fault("invariant", "txt-1: the narrative must be one <div> in the XHTML namespace")
        self._depth += 1
        if name.lower() in _ACTIVE_ELEMENTS:
            self._fault("security", "the narrative holds an element that a browser would run or load")
        elif name not in _ELEMENTS:
            self._fault("invariant", "txt-1: the narrative holds an element that FHIR does not allow")
        for key, value in attributes.items():
            self._attribute(key, value)

    def _attribute(self, key: str, value: str) -> None:
        if key.lower().startswith("on"):
            self._fault("security", "the narrative holds an event handler")
        elif key.lower() in _LINKS and not _is_harmless(value):
            self._fault("security", "the narrative holds a link that a browser would run")
        elif key.lower() == "style" and _ACTIVE_STYLE.search(value):
            self._fault("security", "the narrative holds a style that loads or runs something")
        elif key == "xmlns" and value != XHTML:
            self._fault("security", "the narrative leaves the XHTML namespace")
        elif key not in _ATTRIBUTES:
            self._fault("invariant", "txt-1: the narrative holds an attribute that FHIR does not allow")

    def _end(self, _name: str) -> None:
        self._depth -= 1

    def _doctype(self, *_args: object) -> None:
        self._fault("security", "the narrative holds a DOCTYPE")
        # Stops before an entity could be declared, let alone expanded.
        raise _Doctype

    def _instruction(self, *_args: object) -> None:
        self._fault("security", "the narrative holds a processing instruction")

    def _fault(self, code: str, text: str) -> None:
        self.faults.append(Problem(code, text))


def _is_harmless(link: str) -> bool:
    plain = _IGNORED_BY_BROWSERS.sub("", link)
    scheme = _SCHEME.match(plain)
    if scheme is None:
        return True
    name = scheme[1].lower()
    # Inline pictures are data too, but nothing in a picture format runs, SVG excepted.
    return name in _LINK_SCHEMES or bool(re.match(r"data:image/(png|jpeg|gif)[;,]", plain, re.IGNORECASE))
