"""Tell which regular expressions may run on a sender's text.

For the invariants of profiles and for the conditions of rules: Python's engine goes back over a text, and a
repetition within a repetition can cost time that doubles with each character.
"""

from __future__ import annotations

import re

from fhir_bridge.fhir.path_syntax import PathNotUnderstood

# An escaped character or a class of characters, the brackets of a group, what repeats, what may be or not.
_SIGN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:[:=!]|<[=!]|P<\w+>)|[()*+?|]|\{\d*,?\d*\}", re.DOTALL)


def compiled(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """Compile a pattern.

    Raises:
        PathNotUnderstood: Python does not read it, or it repeats what varies.
    """
    try:
        made = re.compile(pattern, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise PathNotUnderstood("a pattern that cannot be read here") from error
    if _is_costly(pattern):
        raise PathNotUnderstood("a pattern that a text can make costly")
    return made


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
