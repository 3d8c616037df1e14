"""What a Consent says, compiled: clauses that can be held against a request and an index row.

For deciding and for telling a patient what was understood. A policy is a value
without any reference to charts or requesters, so one compilation serves all.

Invariants:
    * a policy that is not ``understood`` has no clauses and no base rule;
    * clauses are in the order in which they are tried: deepest first, and a
      denial before a permit of equal depth.
"""

from __future__ import annotations

from dataclasses import dataclass

Interval = tuple[int, int]
"""``[low, high)`` in µs since 1970, UTC."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who a provision is about: a role, somebody named, or both (then both must hold).

    Attributes:
        role: ``system|code`` that the requester must hold; None when the stated role only
            says that the actor receives data.
        reference: ``Type/id``.
        institution: Name of an institution, for a reference by our own identifier system.
    """

    role: str | None = None
    reference: str | None = None
    institution: str | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """One ``provision.data``: what ``meaning`` the reference to ``Type/id`` has."""

    meaning: str
    reference: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """All elements that one provision states; an empty element does not restrict.

    Attributes:
        stated_by_permit: The provision permits; its labels and dates are taken
            narrowly, those of a denial widely.
        actions: ``consentaction`` codes.
        labels: ``system|code``; for a clause only the nearest stated ones remain.
        classes: Resource type names.
    """

    stated_by_permit: bool
    actors: tuple[Actor, ...] = ()
    purposes: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    period: Interval | None = None
    labels: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()
    data_period: Interval | None = None
    data: tuple[Data, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True if nothing but a period restricts."""
        return not (
            self.actors
            or self.purposes
            or self.actions
            or self.labels
            or self.codes
            or self.classes
            or self.data_period
            or self.data
        )


@dataclass(frozen=True, slots=True)
class Clause:
    """One typed provision with the conditions of all its ancestors.

    ``path`` is its place in the Consent, for explanations to patient and auditor.
    """

    permits: bool
    depth: int
    path: str
    conditions: tuple[Conditions, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A compiled Consent.

    Attributes:
        understood: Everything in it that could change an outcome was read.
        problems: Why not, each with its place; no values.
        clauses: In the order in which they are tried.
        base: What holds where no clause does; None when the Consent leaves that open.
        valid: When the Consent as a whole is in force, from the root's period.
    """

    understood: bool
    problems: tuple[str, ...] = ()
    clauses: tuple[Clause, ...] = ()
    base: Clause | None = None
    valid: Interval = (-(2**62), 2**62)


def restricts(policy: Policy) -> bool:
    """Tell whether a policy takes anything away; an institution's own Consent counts for nothing else."""
    if not policy.understood:
        return True
    return any(not clause.permits for clause in policy.clauses) or (
        policy.base is not None and not policy.base.permits
    )
