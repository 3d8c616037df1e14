"""Tell which regular expressions may run on a sender's text, and on how long a one.

For the invariants of profiles and for the conditions of rules: Python's engine goes back over a text. A repetition
within a repetition can cost time that doubles with each character, and so can many that stand side by side; even a
single one costs the square of the length where nothing says at which character it begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from fhir_bridge.fhir.path_syntax import PathNotUnderstood

# An escaped character or a class of characters, the brackets of a group, what repeats, what may be or not.
_SIGN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:[:=!]|<[=!]|P<\w+>)|[()*+?|]|\{\d*,?\d*\}", re.DOTALL)
_COUNTED = re.compile(r"\{(\d*),(\d*)\}")
_MOST_COUNTED = 16
_MOST_WAYS = 10_000
_MOST_STEPS = 50_000_000
"""About a second at worst."""


def compiled(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """Compile a pattern.

    Raises:
        PathNotUnderstood: Python does not read it, it repeats what varies, or it varies in too many places.
    """
    try:
        made = re.compile(pattern, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise PathNotUnderstood("a pattern that cannot be read here") from error
    if _repeats_what_varies(pattern) or _effort(pattern).whole()[0] > _MOST_WAYS:
        raise PathNotUnderstood("a pattern that a text can make costly")
    return made


@lru_cache(maxsize=1024)
def longest(pattern: str, *, is_whole: bool = False) -> int | None:
    """Return how long a text ``pattern`` may run on; None for any, also for one that ``compiled`` would refuse.

    Args:
        is_whole: It must match a text from end to end, and so is not tried at each of its characters.
    """
    if _repeats_what_varies(pattern):
        return None
    effort = _effort(pattern)
    loops = effort.whole()[1]
    if not is_whole:
        has_one_form = not effort.other_ways
        # What stands at the start is tried once; a repetition at the end is never gone back over.
        loops += not (has_one_form and pattern.startswith("^"))
        loops -= has_one_form and effort.ends_in_loop
    return None if not loops else int((_MOST_STEPS / effort.whole()[0]) ** (1 / loops))


def _repeats_what_varies(pattern: str) -> bool:
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


@dataclass(slots=True)
class _Effort:
    """What a part of a pattern can cost.

    Attributes:
        ways: Choices, multiplied.
        loops: Repetitions, of which each may go through the whole text.
        ends_in_loop: Its last sign, which is the last of the pattern, repeats.
        other_ways, other_loops: Those of the alternatives before this one; there are none if they are zero.
    """

    ways: int = 1
    loops: int = 0
    ends_in_loop: bool = False
    other_ways: int = 0
    other_loops: int = 0

    def whole(self) -> tuple[int, int]:
        """Ways and loops of all alternatives together."""
        return self.ways + self.other_ways, max(self.loops, self.other_loops)

    def multiply(self, ways: int) -> None:
        """One more choice; a number that grows with the pattern is of no use beyond what is refused."""
        self.ways = min(self.ways * ways, _MOST_WAYS + 1)


def _effort(pattern: str) -> _Effort:
    """Add up a pattern that repeats nothing that varies."""
    stack = [_Effort()]
    settled = -1
    for match in _SIGN.finditer(pattern):
        sign, here = match[0], stack[-1]
        if match.start() == settled and sign in ("?", "+"):
            # It belongs to the sign before it, as in ``a*?``.
            continue
        if sign.startswith("("):
            stack.append(_Effort())
        elif sign == ")":
            ways, loops = stack.pop().whole()
            is_optional = pattern.startswith("?", match.end())
            settled = match.end() if is_optional else -1
            stack[-1].multiply(ways + is_optional)
            stack[-1].loops += loops
        elif sign == "|":
            ways, loops = here.whole()
            stack[-1] = _Effort(other_ways=min(ways, _MOST_WAYS), other_loops=loops)
        elif sign[0] in "*+?{":
            settled = match.end()
            _repeat(here, sign)
            here.ends_in_loop = sign in ("*", "+") and settled == len(pattern)
    return stack[0]


def _repeat(here: _Effort, sign: str) -> None:
    counted = _COUNTED.fullmatch(sign)
    span = int(counted[2]) - int(counted[1] or 0) + 1 if counted is not None and counted[2] else 0
    if sign == "?":
        here.multiply(2)
    elif counted is not None and 0 < span <= _MOST_COUNTED:
        here.multiply(span)
    elif sign in ("*", "+") or counted is not None:
        here.loops += 1
