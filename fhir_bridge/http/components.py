"""What the description of the API uses more than once: schemas, parameters, bodies and answers, by name.

Sources: OpenAPI 3.1.1; R4 http.html for headers and statuses, valueset-issue-type.html for the codes of an
outcome; RFC 6749 section 5 for the token endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from fhir_bridge.fhir.tables import patient_compartment, r4
from fhir_bridge.http.bodies import CODINGS
from fhir_bridge.query import SUMMARIES

Json = dict[str, Any]
FHIR_JSON: Final = "application/fhir+json"
_NDJSON: Final = "application/fhir+ndjson"
_ISSUE_TYPES: Final = [
    *("invalid", "structure", "required", "value", "invariant", "security", "login", "unknown"),
    *("expired", "forbidden", "suppressed", "processing", "not-supported", "duplicate"),
    *("multiple-matches", "not-found", "deleted", "too-long", "code-invalid", "extension"),
    *("too-costly", "business-rule", "conflict", "transient", "lock-error", "no-store"),
    *("exception", "timeout", "incomplete", "throttled", "informational"),
]
_OAUTH_ERRORS: Final = (
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
)
_PARTS: Final = ("ledger", "vault", "keys", "bus", "lines", "disk")


@cache
def components() -> Json:
    """Return the section ``components``; the same object each time, not to be changed."""
    return {
        "securitySchemes": {"token": _TOKEN},
        "schemas": _schemas(),
        "parameters": _parameters(),
        "requestBodies": _bodies(),
        "headers": _HEADERS,
        "responses": _answers(),
    }


def ref(kind: str, name: str) -> Json:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


_TOKEN: Final[Json] = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "An access token (RFC 9068) of POST /token, or of an external issuer that the operator admits. "
    "Its SMART scopes say what it is good for.",
}


def _text(**more: Any) -> Json:
    return {"type": "string", **more}


def _object(required: Iterable[str] = (), **properties: Any) -> Json:
    found: Json = {"type": "object", "properties": properties}
    return found | {"required": list(required)} if required else found


def _schemas() -> Json:
    issue = _object(
        ("severity", "code"),
        severity=_text(enum=["fatal", "error", "warning", "information"]),
        code=_text(enum=_ISSUE_TYPES),
        diagnostics=_text(description="What is wrong and what to change; never the value itself."),
        expression={"type": "array", "items": _text(), "description": "The place."},
    )
    entry = _object(resource=ref("schemas", "Resource"))
    parameter = _object(("name",), name=_text(), valueString=_text())
    return {
        "Resource": _object(("resourceType",), resourceType=_text(enum=sorted(r4().resource_types()))),
        "OperationOutcome": _object(
            ("resourceType", "issue"),
            resourceType=_text(const="OperationOutcome"),
            issue={"type": "array", "minItems": 1, "items": issue},
        ),
        "Bundle": _object(
            ("resourceType", "type"),
            resourceType=_text(const="Bundle"),
            type=_text(),
            total={"type": "integer", "minimum": 0},
            link={"type": "array", "items": _object(("relation", "url"), relation=_text(), url=_text())},
            entry={"type": "array", "items": entry},
        ),
        "Parameters": _object(
            ("resourceType",),
            resourceType=_text(const="Parameters"),
            parameter={"type": "array", "items": parameter},
        ),
        "Consent": _object(("resourceType",), resourceType=_text(const="Consent")),
        "CapabilityStatement": _object(
            ("resourceType", "fhirVersion"), resourceType=_text(const="CapabilityStatement"), fhirVersion=_text()
        ),
        "Criteria": {
            "type": "object",
            "additionalProperties": {"anyOf": [_text(), {"type": "array", "items": _text()}]},
        },
        "TokenRequest": _object(
            ("grant_type", "client_assertion_type", "client_assertion"),
            grant_type=_text(const="client_credentials"),
            client_assertion_type=_text(const="urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            client_assertion=_text(description="A JWT that the client has signed (RFC 7523)."),
            scope=_text(description="SMART scopes; those the client is registered for if absent."),
            practitioner=_text(description="Who asks: a FHIR id, stated by an institution."),
            purpose=_text(description="A code of v3-PurposeOfUse; TREAT if absent."),
            role=_text(description="system|code, several separated by spaces."),
        ),
        "TokenGrant": _object(
            ("access_token", "token_type", "expires_in"),
            access_token=_text(),
            token_type=_text(const="Bearer"),
            expires_in={"type": "integer", "description": "Seconds."},
            scope=_text(),
        ),
        "TokenError": _object(("error",), error=_text(enum=list(_OAUTH_ERRORS)), error_description=_text()),
        "Live": _object(("status",), status=_text(const="live")),
        "Ready": _object(
            ("status", "parts"),
            status=_text(enum=["ready", "not ready"]),
            parts=_object(_PARTS, **{name: {"type": "boolean"} for name in _PARTS}),
        ),
        "KeySet": _object(("keys",), keys={"type": "array", "items": {"type": "object"}}),
        "SmartConfiguration": _object(
            ("issuer", "jwks_uri", "token_endpoint", "grant_types_supported", "capabilities"),
            issuer=_text(),
            jwks_uri=_text(),
            token_endpoint=_text(),
            grant_types_supported={"type": "array", "items": _text()},
            capabilities={"type": "array", "items": _text()},
        ),
        "Claimed": _object(
            ("sha256", "bytes", "until"), sha256=_text(), bytes={"type": "integer"}, until=_text(format="date-time")
        ),
        "Manifest": _object(
            ("transactionTime", "request", "output", "error"),
            transactionTime=_text(format="date-time"),
            request=_text(),
            output={"type": "array"},
            error={"type": "array"},
        ),
        "Proof": {"type": "object", "description": "A receipt or an opening, as docs/formats tells."},
        "Description": _object(("openapi", "info", "paths"), openapi=_text(), info={}, paths={"type": "object"}),
    }


def _query(name: str, text: str, **more: Any) -> Json:
    return {"name": name, "in": "query", "description": text, "schema": _text(), **more}


def _several(name: str, text: str) -> Json:
    return _query(name, text, schema={"type": "array", "items": _text()}, style="form", explode=True)


def _header(name: str, text: str, *, is_required: bool = False, **more: Any) -> Json:
    required = {"required": True} if is_required else {}
    return {"name": name, "in": "header", **required, "description": text, "schema": _text(**more)}


def _path(name: str, text: str, **more: Any) -> Json:
    return {"name": name, "in": "path", "required": True, "description": text, "schema": _text(**more)}


def _parameters() -> Json:
    number: Json = {"schema": {"type": "integer", "minimum": 0}}
    criteria = {"type": "object", "additionalProperties": _text()}
    return {
        "type_name": _path("type_name", "A resource type of FHIR R4.", enum=sorted(r4().resource_types())),
        "member": _path("type_name", "A type of R4's Patient compartment.", enum=sorted(patient_compartment())),
        "record_id": _path("record_id", "The record's id, or the asker's own local id.", pattern=_ID),
        "version": _path("version", "The version's id.", pattern=_ID),
        "job": _path("job", "An import, as Content-Location named it.", pattern=r"^[0-9a-f]{32}$"),
        "sha256": _path("sha256", "SHA-256 of the body, decompressed.", pattern=r"^[0-9a-f]{64}$"),
        "criteria": _query(
            "criteria",
            "Search parameters of the type, with modifiers, prefixes and chains: the CapabilityStatement lists them.",
            schema=criteria,
            style="form",
            explode=True,
        ),
        "_count": _query("_count", "Entries of a page.", **number),
        "_sort": _query("_sort", "Search parameters in order, a minus before what is descending."),
        "_total": _query("_total", "Whether to count.", schema=_text(enum=["none", "estimate", "accurate"])),
        "_summary": _query("_summary", "How much of each record.", schema=_text(enum=list(SUMMARIES))),
        "_elements": _query("_elements", "Elements to show, separated by commas."),
        "_include": _several("_include", "Records that a match refers to."),
        "_revinclude": _several("_revinclude", "Records that refer to a match."),
        "_cursor": _query("_cursor", "The next page, as a link of the last one names it."),
        "_since": _query("_since", "Versions since this instant."),
        "_type": _query("_type", "Types to show, separated by commas."),
        "_format": _query("_format", "JSON is the only format there is."),
        "patient": _query("patient", "The person it is about."),
        "start": _query("start", "Clinical time from."),
        "end": _query("end", "Clinical time to."),
        "institution": _query("institution", "Who would ask: name or public id; every institution if absent."),
        "practitioner": _query("practitioner", "Who would ask there."),
        "purpose": _query("purpose", "Purpose of use; TREAT if absent."),
        "role": _several("role", "Role of who would ask: system|code."),
        "revoke": _several("revoke", "A Consent to think away."),
        "url": _query("url", "Canonical url of a code map; all of the asker's if absent."),
        "code": _query("code", "The code to translate.", required=True),
        "system": _query("system", "The code's system.", required=True),
        "codes_version": _query("version", "The version of the code's system."),
        "targetsystem": _query("targetsystem", "The system to translate to."),
        "reverse": _query("reverse", "From the target's codes to the source's.", schema={"type": "boolean"}),
        "conceptMapVersion": _query("conceptMapVersion", "The version of the code map."),
        "request": _query("request", "X-Request-Id of an answer.", required=True),
        "If-Match": _header("If-Match", "Write only over this version."),
        "If-None-Match": _header("If-None-Match", "A version that is held already; * on an update: only create."),
        "If-Modified-Since": _header("If-Modified-Since", "When what is held was modified."),
        "If-None-Exist": _header("If-None-Exist", "Criteria: create only if nothing matches."),
        "Prefer": _header("Prefer", "return=minimal, return=representation, return=OperationOutcome."),
        "Async": _header(
            "Prefer", "respond-async: imports are background jobs.", is_required=True, const="respond-async"
        ),
        "Handling": _header("Prefer", "handling=lenient ignores parameters that are not supported."),
        "Content-Encoding": _header("Content-Encoding", "How the body is compressed.", enum=list(CODINGS)),
    }


_ID: Final = r"^[A-Za-z0-9\-.]{1,64}$"
_PATIENT: Final[Json] = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [{"system": "https://hospital.example.org/mrn", "value": "p1"}],
}
_BUNDLE: Final[Json] = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [{"resource": _PATIENT, "request": {"method": "PUT", "url": "Patient/p1"}}],
}


def _texts(**values: str) -> Json:
    listed = [{"name": name, "valueString": value} for name, value in values.items()]
    return {"resourceType": "Parameters", "parameter": listed}


_TO_TRANSLATE: Final[Json] = {
    "resourceType": "Parameters",
    "parameter": [{"name": "coding", "valueCoding": {"system": "https://hospital.example.org/codes", "code": "GLU"}}],
}
_MANDATE: Final = {"name": "Ada Example", "key": "{…a public JWK…}", "scope": "patient/*.rs", "until": "2027-06-30"}


def _bodies() -> Json:
    form = {"application/x-www-form-urlencoded": {"schema": ref("schemas", "Criteria")}}
    token = {"application/x-www-form-urlencoded": {"schema": ref("schemas", "TokenRequest")}}
    emergency = _texts(reason="unconscious, unknown medication")
    guardian = _texts(**_MANDATE, relationship="MTH", basis="birth certificate 12/2020")
    return {
        "Resource": _body("Resource", _PATIENT),
        "Bundle": _body("Bundle", _BUNDLE),
        "Consent": _body("Consent", {"resourceType": "Consent", "status": "active"}),
        "Criteria": {"content": form},
        "Message": {"required": True, "content": {"*/*": {"schema": {}}}},
        "Lines": {"required": True, "content": {_NDJSON: {"schema": {"type": "string"}}}},
        "TokenRequest": {"required": True, "content": token},
        "Delegate": _body("Parameters", _texts(**_MANDATE)),
        "EndDelegation": _body("Parameters", _texts(delegate="0a1b2c")),
        "Guardian": _body("Parameters", guardian),
        "EndGuardianship": _body("Parameters", _texts(guardian="0a1b2c")),
        "Emergency": _body("Parameters", emergency),
        "Translate": _body("Parameters", _TO_TRANSLATE),
    }


def _body(schema: str, example: Json) -> Json:
    content = {"schema": ref("schemas", schema), "examples": {"small": {"value": example}}}
    return {"required": True, "content": {FHIR_JSON: content, "application/json": content}}


_HEADERS: Final[Json] = {
    "X-Request-Id": {"schema": _text(), "required": True, "description": "Names the decision behind the answer."},
    "WWW-Authenticate": {"schema": _text(), "required": True},
    "Retry-After": {"schema": {"type": "integer", "minimum": 0}, "required": True, "description": "Seconds."},
    "ETag": {"schema": _text(), "description": "The version."},
    "Last-Modified": {"schema": _text()},
    "Content-Location": {"schema": _text(), "required": True, "description": "The address of the job."},
    "Expires": {"schema": _text(), "required": True, "description": "When the job and its files are removed."},
    "X-Progress": {"schema": _text(), "required": True, "description": "How far it is, for people."},
    "Location": {"schema": _text(), "description": "The version that was written."},
}


def _answers() -> Json:
    written = ("ETag", "Last-Modified", "Location")
    return {
        "Record": _answer("The record.", "Resource", headers=("ETag", "Last-Modified")),
        "Page": _answer("A searchset or history; links lead to the next page.", "Bundle"),
        "Duplicates": _answer("A collection of Linkages, one for each group of records that are alike.", "Bundle"),
        "Written": _answer(
            "What is stored, as Prefer asks: in full, as an outcome, or no body.", "Resource", written
        ),
        "Taken": _answer("transaction-response or batch-response, durable and anchored.", "Bundle"),
        "Quarantined": _answer("Taken and kept, but our rules cannot convert it yet.", "OperationOutcome"),
        "Nothing": _answer("Done; no body."),
        "Claimed": _answer("Held until a record of the bus claims it.", "Claimed", media="application/json"),
        "Importing": _answer("Received; the job's address.", "OperationOutcome", ("Content-Location",)),
        "Cancelled": _answer("Cancelled, or removed; what was taken stays.", "OperationOutcome"),
        "Progress": _answer("Under way; no body.", headers=("X-Progress", "Retry-After")),
        "Manifest": _answer("What the import came to.", "Manifest", ("Expires",), "application/json"),
        "LineResults": {
            **_answer("Line by line, as NDJSON."),
            "content": {_NDJSON: {"schema": {"type": "string"}}},
        },
        "Held": _answer("The version that is held is the current one.", headers=("ETag", "Last-Modified")),
        "Told": _answer("The answer as Parameters.", "Parameters"),
        "Proof": _answer("A receipt or an opening.", "Proof", media="application/json"),
        "Capabilities": _answer("The CapabilityStatement.", "CapabilityStatement"),
        **{name: _refusal(name) for name in _REFUSALS},
        **_OPEN_ANSWERS,
    }


_REFUSALS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "400": ("What was sent is not understood or not valid; the outcome says where.", ()),
    "401": ("No valid access token.", ("WWW-Authenticate",)),
    "403": ("The token is not good for this.", ()),
    "404": ("Absent or hidden: the two are one answer.", ()),
    "406": ("JSON is the only format there is.", ()),
    "408": ("The body did not come whole in time.", ()),
    "409": ("In conflict with what is stored.", ()),
    "410": ("Deleted by its source.", ()),
    "412": ("A condition does not hold.", ()),
    "413": ("More bytes than are taken.", ()),
    "415": ("A media type or an encoding that is not taken.", ()),
    "429": ("Too much is waiting; nothing was stored.", ("Retry-After",)),
    "503": ("A part does not answer now; nothing was half done.", ("Retry-After",)),
}


def _refusal(status: str) -> Json:
    text, headers = _REFUSALS[status]
    return _answer(text, "OperationOutcome", headers)


def _answer(text: str, schema: str = "", headers: Iterable[str] = (), media: str = FHIR_JSON) -> Json:
    named = ("X-Request-Id", *headers)
    found: Json = {"description": text, "headers": {name: ref("headers", name) for name in named}}
    return found | {"content": {media: {"schema": ref("schemas", schema)}}} if schema else found


def _open(text: str, schema: str, media: str = "application/json", headers: Iterable[str] = ()) -> Json:
    """Return an answer of a route outside ``/fhir``, which has no id."""
    named: Json = {"headers": {name: ref("headers", name) for name in headers}} if headers else {}
    return {"description": text, **named, "content": {media: {"schema": ref("schemas", schema)}}}


_OPEN_ANSWERS: Final[Json] = {
    "500": _open(
        "Stored data failed its check, or an error of ours; nothing is shown.", "OperationOutcome", FHIR_JSON
    ),
    "Later": _open("A part does not answer now.", "OperationOutcome", FHIR_JSON, ("Retry-After",)),
    "Live": _open("The process answers.", "Live"),
    "Ready": _open("Every part can serve.", "Ready"),
    "NotReady": _open("A part cannot serve.", "Ready"),
    "KeySet": _open("Public keys of the built-in issuer.", "KeySet"),
    "SmartConfiguration": _open("SMART App Launch discovery.", "SmartConfiguration"),
    "TokenGrant": _open("An access token.", "TokenGrant"),
    "TokenRefused": _open("An error of RFC 6749 section 5.2.", "TokenError"),
    "Checkpoint": {
        "description": "A C2SP signed note.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    },
    "Description": _open("This description.", "Description"),
}
