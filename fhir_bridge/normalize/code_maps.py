"""Code maps: which code of another system stands for a code, how far it does, and what to do where none is known.

For the verbs ``translate`` and ``identifier``, for ``$translate`` and for the exchange as FHIR ConceptMap. What a map
says is R4's (conceptmap.html, valueset-concept-map-equivalence.html): only *equal* and *equivalent* mean the same.

Invariants:
    * a code that is wider, narrower or merely related is never a standard code, whoever accepts it;
    * of several codes that would do none is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property, lru_cache

from fhir_bridge.normalize.same import Same
from fhir_bridge.normalize.table_files import Key

SAME = frozenset({"equal", "equivalent"})
NONE = frozenset({"unmatched", "disjoint"})
LOOSE = ("wider", "subsumes", "narrower", "specializes", "inexact", "relatedto")
EQUIVALENCES = (*sorted(SAME), *LOOSE, *sorted(NONE))
NEEDS_COMMENT = frozenset({"narrower", "inexact"})
"""R4's invariant cmd-1: what differs must be told."""

PROVIDED, FIXED, OTHER_MAP = "provided", "fixed", "other-map"


@dataclass(frozen=True, slots=True)
class Target:
    """A code of a standard system."""

    system: str
    code: str
    display: str = ""


@dataclass(frozen=True, slots=True)
class MapRow:
    """What one line of a table, or one target of a ConceptMap, says; without a target code there is no counterpart.

    ``depends`` marks a target that holds only beside other elements of the record, or gives more than a code.
    """

    system: str
    code: str
    target: Target
    equivalence: str = "equivalent"
    display: str = ""
    comment: str = ""
    system_version: str = ""
    target_version: str = ""
    depends: bool = False


@dataclass(frozen=True, slots=True)
class Unmapped:
    """What a group of a ConceptMap does with codes of its source system that it does not name.

    ``target`` holds the target system, and for ``fixed`` the code; ``url`` the other map.
    """

    mode: str
    system: str
    target: Target
    url: str = ""


class Kind(Enum):
    """What a map has for a code."""

    STANDARD = auto()
    MARKED = auto()
    """Codes of other extent that are added because the rule, or the map's author, says so."""
    REVIEW = auto()
    """Several codes, of which a person must choose."""
    LOOSE = auto()
    """Only codes of other extent."""
    WITHOUT = auto()
    """Known to have no counterpart."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a map has for a code; ``rows`` are those behind a kind other than ``STANDARD``."""

    kind: Kind
    standards: tuple[Target, ...] = ()
    rows: tuple[MapRow, ...] = ()


@dataclass(frozen=True)
class CodeMap:
    """Code → codes of other systems. ``systems`` are those whose codes ought to be found here.

    Attributes:
        targets: The standard code of each code that has just one.
        waiting: Systems of codes that stand in the table and have no target yet.
        source_set: Value set of the codes it starts from, as a ConceptMap may name it; ``target_set`` likewise.
    """

    name: str
    rows: tuple[MapRow, ...]
    url: str = ""
    version: str = ""
    source_set: str = ""
    target_set: str = ""
    unmapped: tuple[Unmapped, ...] = ()
    waiting: frozenset[str] = frozenset()
    systems: frozenset[str] = field(init=False)
    target_systems: frozenset[str] = field(init=False)
    target_codes: frozenset[str] = field(init=False)
    by_code: Mapping[Key, tuple[MapRow, ...]] = field(init=False, repr=False)
    targets: Mapping[Key, Target] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_code: dict[Key, list[MapRow]] = {}
        for row in self.rows:
            # An element may stand for what has no code; a record's coding without one is no such thing.
            if row.code:
                by_code.setdefault((row.system, row.code), []).append(row)
        found = {key: tuple(rows) for key, rows in by_code.items()}
        single = {
            key: answer.standards[0] for key, rows in found.items() if len((answer := told(rows)).standards) == 1
        }
        others = [each.target for each in self.unmapped]
        named = [row.target for row in self.rows if row.target.code]
        made = {
            "systems": self.waiting.union((row.system for row in self.rows), (each.system for each in self.unmapped)),
            "target_systems": frozenset(target.system for target in (*named, *others)),
            "target_codes": frozenset(target.code for target in named),
            "by_code": found,
            "targets": single,
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    @cached_property
    def by_target(self) -> Mapping[Key, tuple[MapRow, ...]]:
        """Rows by the code they lead to, for whoever asks the other way round."""
        found: dict[Key, list[MapRow]] = {}
        for row in self.rows:
            if row.target.code:
                found.setdefault((row.target.system, row.target.code), []).append(row)
        return {key: tuple(rows) for key, rows in found.items()}


def told(rows: Iterable[MapRow], accept: frozenset[str] = frozenset()) -> Answer:
    """Return what the rows of one code come to.

    One standard code for each target system: codes of different systems do not compete.

    Args:
        accept: Equivalences that may be added, marked as what they are, where nothing means the same.
    """
    standards: list[Target] = []
    marked: list[MapRow] = []
    several: list[MapRow] = []
    loose: list[MapRow] = []
    for group in _by_system(rows):
        same = _distinct(row for row in group if row.equivalence in SAME and not row.depends)
        others = [row for row in group if row.equivalence not in NONE and row not in same]
        accepted = _distinct(row for row in others if row.equivalence in accept and not row.depends)
        if len(same) == 1:
            standards.append(same[0].target)
        elif same or len(accepted) > 1:
            several += same or accepted
        elif accepted:
            marked += accepted
        else:
            loose += others
    if standards:
        return Answer(Kind.STANDARD, tuple(standards))
    for kind, found in ((Kind.MARKED, marked), (Kind.REVIEW, several), (Kind.LOOSE, loose)):
        if found:
            return Answer(kind, (), tuple(found))
    return Answer(Kind.WITHOUT)


class Translator:
    """Looks codes up in a map, with what the map does with codes that it does not name.

    ``look_up`` returns what the map has for a code, or None if it knows nothing of it.
    """

    def __init__(self, codes: CodeMap, maps: Mapping[str, CodeMap], accept: frozenset[str] = frozenset()) -> None:
        """``maps`` are the pack's, by url: one may send the reader to another."""
        self._codes = codes
        self._maps = maps
        self._accept = accept
        self._known = _answers(Same(codes), accept)
        self._systems = frozenset(each.system for each in codes.unmapped)
        self.look_up: Callable[[Key], Answer | None] = self._by_mode if self._systems else self._known.get

    def _by_mode(self, key: Key) -> Answer | None:
        known = self._known.get(key)
        if known is not None or key[0] not in self._systems:
            return known
        rows = list(unnamed(self._codes, key, self._maps))
        if not rows:
            return None
        # What the map's author says to use is used, but marked: nobody said that it means the same.
        return told(rows, self._accept | {"relatedto"})


# One map serves many rules, and is the same one when its pack is loaded again.
@lru_cache(maxsize=256)
def _answers(codes: Same[CodeMap], accept: frozenset[str]) -> Mapping[Key, Answer]:
    return {key: told(rows, accept) for key, rows in codes.value.by_code.items()}


def unnamed(
    codes: CodeMap, key: Key, maps: Mapping[str, CodeMap], seen: frozenset[str] = frozenset()
) -> Iterator[MapRow]:
    """Yield what a map says of a code that it does not name: by ``group.unmapped`` of R4."""
    system, code = key
    for each in codes.unmapped:
        if each.system != system or not code:
            continue
        if each.mode == PROVIDED:
            yield MapRow(system, code, Target(each.target.system, code), "equivalent")
        elif each.mode == FIXED:
            yield MapRow(system, code, each.target, "relatedto")
        elif each.url not in seen and each.url in maps:
            other = maps[each.url]
            rows = other.by_code.get(key)
            yield from rows if rows is not None else unnamed(other, key, maps, seen | {each.url})


def led_to(codes: CodeMap) -> list[str]:
    """Return the urls of the maps that a map sends its reader to."""
    return [each.url for each in codes.unmapped if each.mode == OTHER_MAP]


def by_url(maps: Mapping[str, CodeMap]) -> dict[str, CodeMap]:
    """Return maps by their canonical url."""
    return {each.url: each for each in maps.values() if each.url}


def _by_system(rows: Iterable[MapRow]) -> list[list[MapRow]]:
    groups: dict[str, list[MapRow]] = {}
    for row in rows:
        groups.setdefault(row.target.system, []).append(row)
    return list(groups.values())


def _distinct(rows: Iterable[MapRow]) -> list[MapRow]:
    return list({row.target.code: row for row in reversed(list(rows))}.values())[::-1]
