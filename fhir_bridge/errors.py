"""Every deliberate error of the bridge, as one tree with public codes.

Four families tell the caller what to do: change the record, ask the patient,
try again, or stop because stored data disagrees with the ledger.

Invariants:
    * a ``code`` never changes once released; messages may;
    * no message holds a name, a birth date, an identifier or a resource body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding about a record, in the terms of FHIR's OperationOutcome.issue.

    Attributes:
        severity: ``fatal``, ``error``, ``warning`` or ``information``.
        code: A code of http://hl7.org/fhir/issue-type.
        diagnostics: What is wrong and what to change; never the value itself.
        expression: Place as a FHIRPath-like path, or empty when it is the whole.
    """

    severity: str
    code: str
    diagnostics: str
    expression: str = ""


class BridgeError(Exception):
    """Base of every deliberate error; ``code`` is public and stable."""

    code: ClassVar[str] = "bridge-error"
    retriable: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross to another process as it is; exceptions are else made anew from their message, as if it were all."""
        return _crossed, (type(self), self.args), self.__dict__


def _crossed(kind: type[BridgeError], args: tuple[Any, ...]) -> BridgeError:
    return kind.__new__(kind, *args)


def kind_of(error: BridgeError) -> str:
    """Return what a log says of an error: the kind of what caused it, if something did."""
    return error.code if error.__cause__ is None else type(error.__cause__).__name__


class RecordRefused(BridgeError):
    """The sender must change something; ``issues`` say what and where."""

    code = "record-refused"

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__("; ".join(f"{i.code} at {i.expression or 'the whole'}" for i in issues))
        self.issues = tuple(issues)


class VersionConflict(RecordRefused):
    """``If-Match`` names another version than the current one."""

    code = "version-conflict"

    def __init__(self) -> None:
        super().__init__([Issue("error", "conflict", "the current version is not the one in If-Match")])


class PreconditionFailed(RecordRefused):
    """A conditional interaction found several matches, or none where one is needed."""

    code = "precondition-failed"


class MessageTooLong(RecordRefused):
    """A message exceeds the limit of bytes; reading it stopped there."""

    code = "message-too-long"


class MessageLate(RecordRefused):
    """A message did not come whole in the time there is for one; nothing of it was taken."""

    code = "message-late"


class MediaUnsupported(RecordRefused):
    """The body comes in a media type or encoding that is not taken."""

    code = "media-unsupported"


class CodingUnsupported(MediaUnsupported):
    """The body is compressed in a way that is not taken; the answer says which ways are (RFC 9110 section 12.5.3)."""


class FormatUnacceptable(RecordRefused):
    """The sender accepts answers in no format that is served."""

    code = "format-unacceptable"


class TypeUnknown(RecordRefused):
    """The address names no resource type of FHIR R4."""

    code = "type-unknown"


class AccessRefused(BridgeError):
    """The patient, the law or a missing credential says no."""

    code = "access-refused"


class NotAuthenticated(AccessRefused):
    """No token, or a token that does not hold up; the message never says which check failed in detail."""

    code = "not-authenticated"


class NotPermitted(AccessRefused):
    """The token is good, but not for this interaction at all, whatever the data."""

    code = "not-permitted"


class NotFound(AccessRefused):
    """Absent or hidden: the two are one answer, so this error carries nothing else."""

    code = "not-found"

    def __init__(self) -> None:
        super().__init__("no such resource")


class AnswerCutOff(AccessRefused):
    """An answer under way would go on to show what may be seen no more, or cannot be finished: its connection ends.

    It is raised only after the first bytes have left, so no status stands for it.
    """

    code = "answer-cut-off"

    def __init__(self) -> None:
        super().__init__("the answer was cut off")


class Unavailable(BridgeError):
    """Try again; nothing was lost and nothing was half done."""

    code = "unavailable"
    retriable = True


class Busy(Unavailable):
    """More work than the queue holds; ``retry_after_s`` says when to come back."""

    code = "busy"

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__(f"too much work waiting, try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class TooManyImports(Busy):
    """An institution has as many imports under way as it may have."""

    code = "too-many-imports"

    def __init__(self, limit: int, retry_after_s: int) -> None:
        BridgeError.__init__(
            self, f"an institution may have {limit} imports under way: wait for one to end, or cancel one"
        )
        self.retry_after_s = retry_after_s


class NotYet(Unavailable):
    """It will be there: ``retry_after_s`` says when to come back."""

    code = "not-yet"

    def __init__(self, what: str, retry_after_s: int) -> None:
        super().__init__(f"{what}, try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class IntegrityBroken(BridgeError):
    """Stop: what is stored disagrees with what was sealed or anchored."""

    code = "integrity-broken"


class EnvelopeBroken(IntegrityBroken):
    """A ciphertext does not open under its key, place and associated data."""

    code = "envelope-broken"


class KeyMissing(IntegrityBroken):
    """The key store holds no such key: erased on request, or lost."""

    code = "key-missing"


class RulesetBroken(BridgeError):
    """A rule pack does not load; the message names file, line and column."""

    code = "ruleset-broken"


class SetupWrong(BridgeError):
    """The operator must change a setting, a file or a command; says which."""

    code = "setup-wrong"


class ValueSetBroken(SetupWrong):
    """A value set cannot be put into force; the message names file, line and concept."""

    code = "value-set-broken"


class ProfileBroken(SetupWrong):
    """A package of profiles cannot be loaded; the message names the file or profile and the element."""

    code = "profile-broken"


class DataDirectoryInUse(SetupWrong):
    """Another process holds the data directory's lock."""

    code = "data-directory-in-use"
