"""The verb ``translate``: the standard code beside, or in place of, the sender's own.

Invariants:
    * only what a map calls equal or equivalent is used as standard code; what is wider or narrower is added only
      where the rule accepts it, behind the sender's own, marked by an extension;
    * where several codes would do none is chosen: the record keeps its code and a flag names them;
    * a code that has no counterpart is told apart from one that nobody has mapped;
    * a code of a system that no map knows is told as well, once every rule has had its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.code_systems import is_standard
from fhir_bridge.normalize.code_maps import LOOSE, Answer, CodeMap, Kind, MapRow, Target, Translator, by_url, led_to
from fhir_bridge.normalize.draft import Draft, Unconvertible, copied
from fhir_bridge.normalize.table_files import Key
from fhir_bridge.normalize.verb_args import MAP, TARGET, Act, Args, Verb, one_of, some_of

ORIGINAL_CODING = "urn:fhir-bridge:extension:original-coding"
"""Extension on a Coding that was replaced; holds the sender's own."""

MAP_EQUIVALENCE = "urn:fhir-bridge:extension:map-equivalence"
"""Extension on a Coding that a map gave and that does not mean the same: how it relates to the sender's code."""

_UNMAPPED = ("keep-and-report", "keep", "quarantine")
_ORIGINAL = ("keep", "replace")
_MAX_NAMED = 10

Report = tuple[str, str]
"""Issue code and text."""

Sources = Mapping[str, str]
"""Which part of what a code becomes is read out of which part of it (:class:`~fhir_bridge.model.ingest.Change`)."""

Work = Callable[[Any], tuple[Any, Report | None, Sources]]
"""Gives what a code becomes, what to tell of it, and where its parts come from."""

_NOTHING: Sources = MappingProxyType({})
_FOREIGN: Report = ("code-invalid", "no map used for this element knows the system of this code, or it names none")


def _translate(args: Args) -> Act:
    place, by = args.place("path"), args.bench.by
    codes: CodeMap = args.named("map", args.bench.tables.maps, "map")
    unmapped = args.choice("unmapped", _UNMAPPED, "keep-and-report")
    keep = args.choice("original", _ORIGINAL, "keep") == "keep"
    translation = _Translation(codes, _translator(args, codes), keep)
    work = _for_type(place.types, translation)
    if work is None:
        raise args.values.spot.broken(f"translate works on codes, not on {'|'.join(sorted(place.types))}")
    if args.values.get("accept") is not None and ("CodeableConcept" not in place.types or not keep):
        problem = "'accept' needs a CodeableConcept that keeps the sender's code: what is accepted is not the same"
        raise args.values.key_spot("accept").broken(problem)

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            for index, (item, where) in enumerate(list(found.each())):
                done, report, origins = work(item)
                if done is not item:
                    if type(found.value) is list:
                        found.value[index] = done
                    else:
                        found.parent[found.key] = done
                    sources = {to: f"{where}.{part}" if part else where for to, part in origins.items()}
                    draft.changed(
                        by, where, item, done, is_safe=type(done) is dict, sources=sources, table=codes.name
                    )
                if report is not None:
                    _report(draft, report, unmapped, where)
                if done is item and report is None and translation.is_foreign(item):
                    draft.foreign.setdefault(where, unmapped)
                else:
                    draft.known.add(where)

    return act


def report_foreign(draft: Draft) -> None:
    """Tell of codes that rules were to translate and whose system no table of the pack knows; once all rules ran.

    Raises:
        Unconvertible: A rule quarantines what it cannot translate.
    """
    for where, policy in draft.foreign.items():
        if where not in draft.known:
            _report(draft, _FOREIGN, policy, where)


def _translator(args: Args, codes: CodeMap) -> Translator:
    maps = by_url(args.bench.tables.maps)
    for url in led_to(codes):
        if url not in maps:
            raise args.values.require("map").spot.broken(
                f"map {codes.name} leads to {url}, which no map of the pack is"
            )
    return Translator(codes, maps, args.choices("accept", LOOSE))


def _for_type(types: frozenset[str], work: _Translation) -> Work | None:
    if types == {"CodeableConcept"}:
        return work.concept
    if types == {"Coding"}:
        return work.coding
    if types <= {"code", "string", "uri"}:
        return work.bare
    if "CodeableConcept" in types:
        return lambda item: work.concept(item) if type(item) is dict else (item, None, _NOTHING)
    return None


class _Translation:
    """What one rule does with codes, by one map."""

    def __init__(self, codes: CodeMap, translator: Translator, keep: bool) -> None:
        self._codes = codes
        self._look_up = translator.look_up
        self._keep = keep

    def concept(self, concept: Any) -> tuple[Any, Report | None, Sources]:
        """The concept with standard codings before the sender's own."""
        codings = concept.get("coding") if type(concept) is dict else None
        if type(codings) is not list:
            return concept, None, _NOTHING
        keys = [coding_key(coding) for coding in codings]
        answers = [self._look_up(key) for key in keys]
        if not any(answers):
            # Neither ours nor anybody's to translate, or nobody has mapped it.
            is_ours = any(system in self._codes.systems for system, _ in keys)
            return concept, self._words(None) if is_ours else None, _NOTHING
        made = self._with_standards(codings, answers, set(keys))
        report = None if any(a and a.standards for a in answers) else self._told(keys, answers)
        done = [coding for coding, _ in made]
        if done == codings:
            return concept, report, _NOTHING
        moved = {f"coding[{at}]": part for at, (_, part) in enumerate(made) if part != f"coding[{at}]"}
        return {**concept, "coding": done}, report, moved

    def _with_standards(
        self, codings: list[Any], answers: list[Answer | None], held: set[Key]
    ) -> list[tuple[Any, str]]:
        """The codings with standard ones before the sender's own, what is marked behind; each with its origin."""
        made: list[tuple[Any, str]] = []
        behind: list[tuple[Any, str]] = []
        for index, (coding, answer) in enumerate(zip(codings, answers, strict=True)):
            origin = f"coding[{index}]"
            if answer is None:
                made.append((coding, origin))
                continue
            for target in answer.standards:
                if (target.system, target.code) not in held:
                    made.insert(sum(self._is_target(c) for c, _ in made), (as_coding(target), f"{origin}.code"))
            if self._keep or not answer.standards:
                made.append((coding, origin))
            if answer.kind is Kind.MARKED:
                behind += [(_marked(row), f"{origin}.code") for row in answer.rows if _key_of(row) not in held]
        return made + behind

    def _told(self, keys: list[Key], answers: list[Answer | None]) -> Report | None:
        """The one thing to say of a concept without a standard code from us; nothing where the sender gave one."""
        for answer in answers:
            if answer is not None and not any(_key_of(row) in keys for row in answer.rows):
                return self._words(answer)
        unknown = (key for key, answer in zip(keys, answers, strict=True) if answer is None)
        return self._words(None) if any(system in self._codes.systems for system, _ in unknown) else None

    def is_foreign(self, item: Any) -> bool:
        """Tell whether all codes of a concept or Coding are of systems that neither the map nor everybody knows."""
        codings = item.get("coding", [item]) if type(item) is dict else ()
        coded = [coding for coding in codings if type(coding) is dict and "code" in coding]
        return bool(coded) and not any(self._knows(coding.get("system") or "") for coding in coded)

    def _knows(self, system: Any) -> bool:
        if system in self._codes.systems or (system and system in self._codes.target_systems):
            return True
        return type(system) is str and is_standard(system)

    def coding(self, coding: Any) -> tuple[Any, Report | None, Sources]:
        """The standard coding in place of the sender's, which an extension keeps."""
        if type(coding) is not dict:
            return coding, None, _NOTHING
        answer = self._look_up(coding_key(coding))
        if answer is None:
            return coding, self._words(None) if coding.get("system") in self._codes.systems else None, _NOTHING
        if len(answer.standards) != 1:
            return coding, self._words(_unadded(answer)), _NOTHING
        made = as_coding(answer.standards[0])
        origins = dict.fromkeys(made, "code")
        if self._keep:
            made = {"extension": [{"url": ORIGINAL_CODING, "valueCoding": copied(coding)}], **made}
            origins["extension[0].valueCoding"] = ""
        return made, None, origins

    def bare(self, code: Any) -> tuple[Any, Report | None, Sources]:
        """The standard code in place of the sender's."""
        if code is None:
            # Its extension stands for it.
            return code, None, _NOTHING
        answer = self._look_up(("", code)) if type(code) is str else None
        if answer is None:
            return code, None if code in self._codes.target_codes else self._words(None), _NOTHING
        if len(answer.standards) != 1:
            return code, self._words(_unadded(answer)), _NOTHING
        return answer.standards[0].code, None, _NOTHING

    def _is_target(self, coding: Any) -> bool:
        return type(coding) is dict and coding.get("system") in self._codes.target_systems

    def _words(self, answer: Answer | None) -> Report:
        """What to tell of a code without a standard one; named are codes of the pack's own table."""
        name = f"map {self._codes.name}"
        if answer is None:
            return "code-invalid", f"{name} has no standard code for a code of the sender's own system"
        if answer.kind is Kind.WITHOUT:
            return "not-found", f"{name} says that this code has no counterpart"
        rows = answer.rows or tuple(MapRow("", "", target) for target in answer.standards)
        if answer.kind is Kind.LOOSE:
            return "business-rule", f"{name} has no code that means the same, only: {_named(rows, with_kind=True)}"
        if answer.kind is Kind.MARKED:
            return "informational", f"{name} has no code that means the same; added and marked: {_named(rows)}"
        return "multiple-matches", f"{name} has several codes for this one, a person must choose: {_named(rows)}"


def _unadded(answer: Answer) -> Answer:
    """The same where there is no place beside the sender's code: what would be marked is left out."""
    return replace(answer, kind=Kind.LOOSE) if answer.kind is Kind.MARKED else answer


def _named(rows: Iterable[MapRow], *, with_kind: bool = False) -> str:
    words = [f"{row.equivalence} {row.target.code}" if with_kind else row.target.code for row in rows]
    return ", ".join(words[:_MAX_NAMED]) + (", …" if len(words) > _MAX_NAMED else "")


def _key_of(row: MapRow) -> Key:
    return row.target.system, row.target.code


def _marked(row: MapRow) -> dict[str, Any]:
    return {"extension": [{"url": MAP_EQUIVALENCE, "valueCode": row.equivalence}], **as_coding(row.target)}


def coding_key(coding: Any) -> Key:
    """Return system and code of a Coding as it came; what is none has the empty key."""
    if type(coding) is not dict:
        return ("", "")
    return (coding.get("system") or "", coding.get("code") or "")


def as_coding(target: Target) -> dict[str, Any]:
    """Return a standard code as Coding."""
    made = {"system": target.system, "code": target.code}
    if target.display:
        made["display"] = target.display
    return made


def _report(draft: Draft, report: Report, policy: str, place: str) -> None:
    code, text = report
    if policy == "quarantine" and code != "informational":
        raise Unconvertible(Issue("error", code, text, place))
    if policy != "keep":
        draft.flag(code, text, place)


VERBS = {
    "translate": Verb(
        {
            "path": TARGET,
            "map": MAP,
            "unmapped": one_of(*_UNMAPPED).maybe(),
            "original": one_of(*_ORIGINAL).maybe(),
            "accept": some_of(*LOOSE).maybe(),
        },
        _translate,
        "adds the standard coding before the sender's",
    )
}
