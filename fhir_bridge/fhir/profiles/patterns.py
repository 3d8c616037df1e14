"""Refuse regular expressions of a profile's invariants that cannot be read here, or that a text can make costly.

For the compiler of profiles: a package is not ours, the text that its patterns meet is a sender's, and Python's
engine goes back over a text. A repetition within a repetition can cost time that doubles with each character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from fhir_bridge.fhir.path_syntax import Call, Literal, PathNotUnderstood, read

# An escaped character or a class of characters, the brackets of a group, what repeats, what may be or not.
_SIGN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:[:=!]|<[=!]|P<\w+>)|[()*+?|]|\{\d*,?\d*\}", re.DOTALL)


def check_patterns(expression: str) -> None:
    """Accept the arguments of every ``matches()`` in an expression.

    Raises:
        PathNotUnderstood: One is not written out, is none that Python reads, or repeats what varies.
    """
    for call in _calls(read(expression)):
        pattern = call.args[0] if call.args else None
        if not isinstance(pattern, Literal) or type(pattern.value) is not str:
            raise PathNotUnderstood("a pattern that a record gives")
        try:
            re.compile(pattern.value)
        except (re.error, OverflowError, RecursionError) as error:
            raise PathNotUnderstood("a pattern that cannot be read here") from error
        if _is_costly(pattern.value):
            raise PathNotUnderstood("a pattern that a text can make costly")


def _calls(node: Any) -> Iterator[Call]:
    if isinstance(node, Call) and node.name == "matches":
        yield node
    if isinstance(node, tuple):
        for each in node:
            yield from _calls(each)
    elif is_dataclass(node):
        for each in fields(node):
            yield from _calls(getattr(node, each.name))


def _is_costly(pattern: str) -> bool:
    """Whether a group that repeats can match its part of a text in more than one way."""
    signs = [(match[0], match.start(), match.end()) for match in _SIGN.finditer(pattern)]
    varies = [False]
    for (sign, _, end), (following, start, _) in zip(signs, [*signs[1:], ("", -1, -1)], strict=False):
        if sign.startswith("("):
            varies.append(False)
        elif sign == ")":
            inner = varies.pop()
            if inner and start == end and (following in ("*", "+") or following.startswith("{")):
                return True
            varies[-1] |= inner
        elif sign in ("*", "+", "?", "|") or (sign.startswith("{") and "," in sign):
            varies[-1] = True
    return False
