"""Which algorithms a network uses: allow one, retire one; approved like a join.

What is retired counts for nothing from the next transaction on, so its keys
cannot rotate afterwards either: members move first. Retiring a signature suite
takes enough members whose keys are of suites that stay; those who approved can
govern the network without the others.

A state tree has exactly one suite: allowing another one replaces it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ledger_core.payloads import (
    USE_BATCH_TREE,
    USE_DIGEST,
    USE_SIGNATURE,
    USE_STATE_TREE,
    AllowSuite,
    Rejection,
    RetireSuite,
)
from ledger_core.rules.view import Request, Verdict, View, find_active, find_config, has_enough, key_suite
from ledger_core.values import CONFIG_PATH, Config

_SETS: Final[Mapping[str, str]] = {
    USE_SIGNATURE: "signatures",
    USE_DIGEST: "digests",
    USE_BATCH_TREE: "batch_trees",
}


def judge(view: View, request: Request) -> Verdict:
    """Judge a change of suites."""
    payload = request.payload
    config = find_config(view)
    if isinstance(payload, AllowSuite):
        return _allow(view, config, payload, request.signers)
    assert isinstance(payload, RetireSuite)
    return _retire(view, config, payload, request.signers)


def allowed_suites(config: Config, use: str) -> tuple[int, ...]:
    """Return the suites that the network uses for ``use``, sorted."""
    if use == USE_STATE_TREE:
        return (config.state_tree,)
    suites: tuple[int, ...] = getattr(config, _SETS[use])
    return suites


def _allow(view: View, config: Config, payload: AllowSuite, signers: frozenset[bytes]) -> Verdict:
    allowed = allowed_suites(config, payload.use)
    if payload.suite in allowed:
        return Rejection.ALREADY_EXISTS
    if not has_enough(view, signers):
        return Rejection.APPROVALS_MISSING
    return {CONFIG_PATH: _with(config, payload.use, (*allowed, payload.suite))}


def _retire(view: View, config: Config, payload: RetireSuite, signers: frozenset[bytes]) -> Verdict:
    allowed = allowed_suites(config, payload.use)
    if payload.suite not in allowed:
        return Rejection.NOT_FOUND
    if len(allowed) == 1:
        return Rejection.LAST_SUITE
    approving = find_active(view, signers)
    if payload.use == USE_SIGNATURE:
        approving = [key for key in approving if key_suite(key) != payload.suite]
    if len(approving) < config.needed:
        return Rejection.APPROVALS_MISSING
    return {CONFIG_PATH: _with(config, payload.use, tuple(each for each in allowed if each != payload.suite))}


def _with(config: Config, use: str, suites: tuple[int, ...]) -> Config:
    if use == USE_STATE_TREE:
        return replace(config, state_tree=suites[-1])
    return replace(config, **{_SETS[use]: tuple(sorted(suites))})  # type: ignore[arg-type]  # a set of suites
