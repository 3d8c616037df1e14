"""Functions over texts (FHIRPath N1 section 5.6), with those of 2.1 that the official R4 tests have."""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Callable

from fhir_bridge.fhir.fhirpath.calls import Argument, Function, Run, scalar
from fhir_bridge.fhir.fhirpath.types import BOOLEAN, INTEGER, STRING, Model
from fhir_bridge.fhir.fhirpath.values import MAX_TEXT_CHARS, Items, PathFailed, Scope, plain, single
from fhir_bridge.fhir.path_syntax import Literal, Nothing, PathNotUnderstood
from fhir_bridge.fhir.text_patterns import compiled, longest

_TEXT = ("text",)


def _substring(text: str, start: int, length: int | None = None) -> str | None:
    if not 0 <= start < len(text):
        return None
    return text[start:] if length is None else text[start : start + max(0, length)]


def _index_of(text: str, part: str) -> int:
    return text.find(part)


def _encode(text: str, form: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    match form:
        case "base64":
            return base64.b64encode(data).decode()
        case "urlbase64":
            return base64.urlsafe_b64encode(data).decode()
        case "hex":
            return data.hex()
    raise PathFailed("encode() knows base64, urlbase64 and hex")


def _decode(text: str, form: str) -> str | None:
    readers: dict[str, Callable[[str], bytes]] = {
        "base64": lambda given: base64.b64decode(given, validate=True),
        "urlbase64": lambda given: base64.b64decode(given, altchars=b"-_", validate=True),
        "hex": bytes.fromhex,
    }
    if form not in readers:
        raise PathFailed("decode() knows base64, urlbase64 and hex")
    try:
        return readers[form](text).decode("utf-8")
    except (binascii.Error, ValueError):
        return None


def _escape(text: str, form: str) -> str:
    if form == "html":
        return html.escape(text, quote=True)
    if form == "json":
        return json.dumps(text, ensure_ascii=False)[1:-1]
    raise PathFailed("escape() knows html and json")


def _unescape(text: str, form: str) -> str | None:
    if form == "html":
        return html.unescape(text)
    if form != "json":
        raise PathFailed("unescape() knows html and json")
    try:
        # A quote that needs none would end the text.
        read = json.loads(f'"{re.sub(_BARE_QUOTE, _QUOTED, text)}"', strict=False)
    except json.JSONDecodeError:
        return None
    return read if type(read) is str else None


_BARE_QUOTE = r'((?:\\.)*)"'
_QUOTED = r'\1\\"'


def _replace(text: str, part: str, by: str) -> str:
    count = text.count(part)
    if len(text) + count * max(0, len(by) - len(part)) > MAX_TEXT_CHARS:
        raise PathFailed(f"replace() makes a text longer than {MAX_TEXT_CHARS} characters")
    # The empty text stands before every character (N1 section 5.6.9), but not at the end.
    return "".join(by + sign for sign in text) + by if not part else text.replace(part, by)


_NAMED_GROUP = re.compile(r"\(\?<(?=[A-Za-z])")


def _pattern_of(argument: Argument, name: str) -> re.Pattern[str] | None:
    """The pattern of an argument; None for ``{}``.

    Raises:
        PathNotUnderstood: It is not written out, cannot be read, or could be costly.
    """
    if isinstance(argument.syntax, Nothing):
        return None
    if not isinstance(argument.syntax, Literal) or type(argument.syntax.value) is not str:
        raise PathNotUnderstood(f"{name}() wants its pattern written out, as one that a record gives could be costly")
    # N1 section 5.6.8: single line mode, the dot matches line ends. Groups are named as in PCRE.
    return compiled(_NAMED_GROUP.sub("(?P<", argument.syntax.value), re.DOTALL)


def _limit(argument: Argument, name: str) -> int | None:
    syntax = argument.syntax
    assert isinstance(syntax, Literal), "a pattern is written out"
    return longest(_NAMED_GROUP.sub("(?P<", str(syntax.value)), is_whole=name == "matchesFull")


def _within(text: str, limit: int | None, name: str) -> None:
    if limit is not None and len(text) > limit:
        raise PathFailed(f"{name}() with this pattern is not for a text of more than {limit} characters")


def _matching(name: str, test: Callable[[re.Pattern[str], str], bool]) -> Function:
    def make(args: tuple[Argument, ...], model: Model) -> Run:
        pattern = _pattern_of(args[0], name)
        if pattern is None:
            return lambda _items, _scope, _focus: []
        limit = _limit(args[0], name)

        def tested(text: str) -> bool:
            _within(text, limit, name)
            return test(pattern, text)

        return scalar(name, _TEXT, tested, BOOLEAN).make((), model)

    return Function(make, 1, 1, _TEXT, BOOLEAN)


def _replace_matches(args: tuple[Argument, ...], model: Model) -> Run:
    pattern = _pattern_of(args[0], "replaceMatches")
    if pattern is None:
        return lambda _items, _scope, _focus: []

    limit = _limit(args[0], "replaceMatches")

    def replaced(text: str, by: str) -> str:
        _within(text, limit, "replaceMatches")
        if not pattern.pattern:
            return text
        count = sum(1 for _ in pattern.finditer(text))
        if len(text) + count * len(by) > MAX_TEXT_CHARS:
            raise PathFailed(f"replaceMatches() makes a text longer than {MAX_TEXT_CHARS} characters")
        try:
            return pattern.sub(_GROUP.sub(_group, by.replace("\\", r"\\")), text)
        except (re.error, IndexError):
            raise PathFailed("replaceMatches() names a group that its pattern does not have") from None

    return scalar("replaceMatches", _TEXT, replaced, STRING, _TEXT).make(args[1:], model)


_GROUP = re.compile(r"\$(?:(\d)|\{(\w+)\})")


def _group(match: re.Match[str]) -> str:
    return rf"\g<{match[1] or match[2]}>"


def _join(args: tuple[Argument, ...], _model: Model) -> Run:
    def run(items: Items, scope: Scope, focus: Items) -> Items:
        between = single(args[0].evaluate(focus, scope), "join()") if args else ""
        texts = [plain(item) for item in items]
        if any(type(text) is not str for text in texts) or type(between) not in (str, type(None)):
            raise PathFailed("join() wants texts")
        return [] if between is None or not texts else [between.join(texts)]

    return run


TABLE: dict[str, Function] = {
    "indexOf": scalar("indexOf", _TEXT, _index_of, INTEGER, _TEXT),
    "lastIndexOf": scalar("lastIndexOf", _TEXT, lambda text, part: text.rfind(part), INTEGER, _TEXT),
    "substring": scalar("substring", _TEXT, _substring, STRING, ("whole", "whole"), least=1),
    "startsWith": scalar("startsWith", _TEXT, str.startswith, BOOLEAN, _TEXT),
    "endsWith": scalar("endsWith", _TEXT, str.endswith, BOOLEAN, _TEXT),
    "contains": scalar("contains", _TEXT, lambda text, part: part in text, BOOLEAN, _TEXT),
    "upper": scalar("upper", _TEXT, str.upper, STRING),
    "lower": scalar("lower", _TEXT, str.lower, STRING),
    "length": scalar("length", _TEXT, len, INTEGER),
    "toChars": scalar("toChars", _TEXT, lambda text: list(text), STRING),
    "replace": scalar("replace", _TEXT, _replace, STRING, ("text", "text")),
    "matches": _matching("matches", lambda pattern, text: pattern.search(text) is not None),
    "matchesFull": _matching("matchesFull", lambda pattern, text: pattern.fullmatch(text) is not None),
    "replaceMatches": Function(_replace_matches, 2, 2, _TEXT, STRING),
    "trim": scalar("trim", _TEXT, str.strip, STRING),
    "split": scalar("split", _TEXT, lambda text, by: text.split(by) if by else list(text), STRING, _TEXT),
    "join": Function(_join, 0, 1, _TEXT, STRING),
    "encode": scalar("encode", _TEXT, _encode, STRING, _TEXT),
    "decode": scalar("decode", _TEXT, _decode, STRING, _TEXT),
    "escape": scalar("escape", _TEXT, _escape, STRING, _TEXT),
    "unescape": scalar("unescape", _TEXT, _unescape, STRING, _TEXT),
}
