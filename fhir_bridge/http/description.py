"""The OpenAPI 3.1 description of the public API, made from the routes that the application has.

Paths, methods and the parts of paths are the routes' own, and summaries what
their handlers say of themselves. What else an interaction takes and gives
stands in one table here, because handlers take exact bytes and declare
nothing (``routes``); a route that the table does not name stops the start.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.routing import Route

from fhir_bridge import __version__
from fhir_bridge.http.components import components, ref

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """What an interaction takes and gives, by names of components.

    Attributes:
        answers: Status → answer; refusals are named by their status.
        parameters: Beside the parts of the path.
        parts: Part of the path → component, where it is not of the same name.
    """

    tag: str
    answers: Mapping[str, str]
    parameters: Sequence[str] = ()
    body: str = ""
    needs_token: bool = True
    parts: Mapping[str, str] | None = None


def _refused(*statuses: str) -> dict[str, str]:
    return {status: status for status in statuses}


_ASKED: Final = _refused("400", "401", "403", "404", "406", "500", "503")
_SENT: Final = _ASKED | _refused("408", "413", "415")
_UNASKED: Final = {status: name for status, name in _ASKED.items() if status != "406"}
_WRITTEN: Final = {"200": "Written", "201": "Written", "202": "Quarantined", **_SENT, **_refused("409", "412", "429")}
_DELETED: Final = {"204": "Nothing", "202": "Quarantined", **_UNASKED, **_refused("409", "412", "429")}
_SHAPE: Final = ("_summary", "_elements", "_format")
_SEARCH: Final = ("_sort", "_count", "_total", "_include", "_revinclude", "_cursor", *_SHAPE)
_HISTORY: Final = ("_since", "_count", "_cursor", *_SHAPE)
_ASKER: Final = ("institution", "practitioner", "purpose", "role")
_PUT: Final = ("If-Match", "If-None-Match", "Prefer", "Content-Encoding")


def _searched(**more: Any) -> Told:
    return Told("search", {"200": "Page", **_ASKED}, ("criteria", *_SEARCH, "Handling"), **more)


def _searched_by_post(**more: Any) -> Told:
    return Told("search", {"200": "Page", **_SENT}, ("Handling", "Content-Encoding"), "Criteria", **more)


def _operated(body: str) -> Told:
    return Told("access", {"200": "Told", **_SENT}, ("Content-Encoding",), body)


def _unguarded(tag: str, answers: Mapping[str, str], body: str = "", parameters: Sequence[str] = ()) -> Told:
    return Told(tag, {**answers, "500": "500"}, parameters, body, needs_token=False)


_MEMBER: Final = {"type_name": "member"}
_TABLE: Final[Mapping[str, Told]] = {
    # --- reading
    "read": Told(
        "records",
        {"200": "Record", "304": "Held", **_ASKED, **_refused("410")},
        ("If-None-Match", "If-Modified-Since", *_SHAPE),
    ),
    "vread": Told("records", {"200": "Record", **_ASKED, **_refused("410")}, _SHAPE),
    "history": Told("records", {"200": "Page", **_ASKED}, _HISTORY),
    "history_of_type": Told("records", {"200": "Page", **_ASKED}, ("patient", *_HISTORY)),
    "history_of_system": Told("records", {"200": "Page", **_ASKED}, ("patient", *_HISTORY)),
    "search": _searched(),
    "search_by_post": _searched_by_post(),
    "search_compartment": _searched(parts=_MEMBER),
    "search_compartment_by_post": _searched_by_post(parts=_MEMBER),
    "everything": Told(
        "records", {"200": "Page", **_ASKED}, ("_since", "_count", "_type", "start", "end", "_cursor", *_SHAPE)
    ),
    "duplicates": Told("records", {"200": "Duplicates", **_ASKED}, ("_type", "_format")),
    "translate": Told(
        "codes",
        {"200": "Told", **_ASKED},
        ("url", "code", "system", "codes_version", "targetsystem", "reverse", "conceptMapVersion", "_format"),
    ),
    "translate_by_post": Told("codes", {"200": "Told", **_SENT}, ("Content-Encoding",), "Translate"),
    # --- writing
    "bundle": Told("writing", {"200": "Taken", **_SENT, **_refused("409", "412", "429")}, _PUT[-1:], "Bundle"),
    "create": Told("writing", _WRITTEN, ("If-None-Exist", "Prefer", "Content-Encoding"), "Resource"),
    "update": Told("writing", _WRITTEN, _PUT, "Resource"),
    "conditional_update": Told(
        "writing", _WRITTEN, ("criteria", "If-Match", "Prefer", "Content-Encoding"), "Resource"
    ),
    "delete": Told("writing", _DELETED, ("If-Match", "Prefer")),
    "conditional_delete": Told("writing", _DELETED, ("criteria", "If-Match", "Prefer")),
    "put_claim": Told("writing", {"201": "Claimed", **_SENT}, ("Content-Encoding",), "Message"),
    "start_import": Told(
        "writing", {"202": "Importing", **_SENT, **_refused("429")}, ("Async", "Content-Encoding"), "Lines"
    ),
    "import_status": Told("writing", {"200": "Manifest", "202": "Progress", **_ASKED}),
    "cancel_import": Told("writing", {"202": "Cancelled", **_UNASKED}),
    "import_file": Told("writing", {"200": "LineResults", **_UNASKED}),
    # --- consent and who acts for a patient
    "explain_person": Told("decisions", {"200": "Told", **_ASKED}, _ASKER),
    "explain": Told("decisions", {"200": "Told", **_ASKED}, _ASKER),
    "simulate": Told("decisions", {"200": "Told", **_ASKED}, (*_ASKER, "revoke")),
    "simulate_draft": Told("decisions", {"200": "Told", **_SENT}, (*_ASKER, "Content-Encoding"), "Consent"),
    "decisions": Told("decisions", {"200": "Told", **_ASKED}, ("_count",)),
    "delegate": _operated("Delegate"),
    "end_delegation": _operated("EndDelegation"),
    "emergency_access": _operated("Emergency"),
    "attest_guardian": _operated("Guardian"),
    "end_guardianship": _operated("EndGuardianship"),
    "attest_consent": Told("access", _WRITTEN, ("Prefer", "Content-Encoding"), "Consent"),
    # --- proofs
    "receipt": Told("proofs", {"200": "Proof", **_ASKED}),
    "version_receipt": Told("proofs", {"200": "Proof", **_ASKED}),
    "decision_receipt": Told("proofs", {"200": "Proof", **_ASKED}, ("request",)),
    "decision_opening": Told("proofs", {"200": "Proof", **_ASKED}, ("request",)),
    "checkpoint": _unguarded("proofs", {"200": "Checkpoint"}),
    # --- without a token
    "live": _unguarded("health", {"200": "Live"}),
    "ready": _unguarded("health", {"200": "Ready", "503": "NotReady"}),
    "smart_configuration": _unguarded("access", {"200": "SmartConfiguration"}),
    "jwks": _unguarded("access", {"200": "KeySet"}),
    "token": _unguarded(
        "access",
        {"200": "TokenGrant", **dict.fromkeys(("400", "401", "408", "413"), "TokenRefused"), "503": "Later"},
        "TokenRequest",
    ),
    "metadata": _unguarded("records", {"200": "Capabilities", "406": "406"}, parameters=("_format",)),
    "openapi": _unguarded("health", {"200": "Description"}),
}


def describe(routes: Iterable[Route], base_url: str) -> bytes:
    """Return the description of these routes as bytes of JSON.

    Raises:
        KeyError: A route has a handler that the table does not name.
    """
    paths: dict[str, Json] = {}
    names: Counter[str] = Counter()
    for route in routes:
        for method in sorted(route.methods or ()):
            names[f"{method} {route.name}"] += 1
            at = paths.setdefault(route.path_format, {})
            at.setdefault(method.lower(), _operation(route, method, names[f"{method} {route.name}"]))
    document = {
        "openapi": "3.1.1",
        "info": {
            "title": "fhir-bridge",
            "version": __version__,
            "summary": "FHIR in, consented FHIR out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base_url}],
        "paths": paths,
        "components": components(),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _operation(route: Route, method: str, number: int) -> Json:
    told = _TABLE[route.name]
    parts = told.parts or {}
    named = [*(parts.get(each, each) for each in re.findall(r"{(\w+)}", route.path_format)), *told.parameters]
    name = route.name if method != "HEAD" else f"head_{route.name}"
    operation: Json = {
        "operationId": name if number == 1 else f"{name}_{number}",
        "tags": [told.tag],
        "summary": (inspect.getdoc(route.endpoint) or "").partition("\n")[0].replace("``", ""),
        "parameters": [ref("parameters", each) for each in named],
        "responses": {status: _response(each, method) for status, each in sorted(told.answers.items())},
        "security": [{"token": []}] if told.needs_token else [],
    }
    return operation | {"requestBody": ref("requestBodies", told.body)} if told.body else operation


def _response(name: str, method: str) -> Json:
    """Return an answer; to HEAD it comes without its body."""
    if method != "HEAD":
        return ref("responses", name)
    return {key: value for key, value in components()["responses"][name].items() if key != "content"}
