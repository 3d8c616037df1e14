"""What a verifier trusts, and how fresh it wants the proof; comes from elsewhere than the receipt.

A policy is a small JSON file that an auditor or hospital gets once, by a way it
trusts, and keeps. Everything in it narrows: a member left out is not trusted.

    {
      "format": "ledger-core/policy/v1",
      "origin": "north.example/ledger",
      "log_keys": ["north.example/ledger+…+…", …],
      "witnesses": [], "quorum": 0,
      "network": null, "members": null,
      "oldest_checkpoint": null, "max_age_ms": null
    }
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ledger_core.checkpoint import NOTE_ED25519, NoteKey, cosigner_key, log_key, parse_vkey
from ledger_core.errors import NoteInvalid, PolicyInvalid

FORMAT: Final = "ledger-core/policy/v1"
_NAMES: Final = (
    "format",
    "origin",
    "log_keys",
    "witnesses",
    "quorum",
    "network",
    "members",
    "oldest_checkpoint",
    "max_age_ms",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Keys, quorum and freshness that a receipt must meet.

    ``log_keys`` sign checkpoints (type 0x01) and times (type 0x04). At least
    ``quorum`` of ``witnesses`` must have cosigned. ``oldest_checkpoint`` and
    ``max_age_ms`` speak of the latest time signed by the log or by a counted witness.
    """

    origin: str
    log_keys: tuple[NoteKey, ...]
    witnesses: tuple[NoteKey, ...] = ()
    quorum: int = 0
    network: bytes | None = None
    members: frozenset[bytes] | None = None
    oldest_checkpoint: datetime | None = None
    max_age_ms: int | None = None

    def __post_init__(self) -> None:
        signs = [key for key in self.log_keys if key.type == NOTE_ED25519]
        if not signs or any(key.name != self.origin for key in self.log_keys):
            raise PolicyInvalid("log_keys need a key of type 1, all under the origin's name")
        if any(key.type == NOTE_ED25519 for key in self.witnesses):
            raise PolicyInvalid("a witness signs cosignatures: its key has type 4 or 6")
        publics = {key.public for key in self.witnesses}
        if not 0 <= self.quorum <= len(publics) or publics & {key.public for key in self.log_keys}:
            raise PolicyInvalid("quorum exceeds the distinct witnesses, or the log is its own witness")

    @classmethod
    def for_log(cls, origin: str, public: bytes, *, network: bytes | None = None) -> "Policy":
        """Return the plainest policy: this log's key vouches, at any age."""
        return cls(origin, (log_key(origin, public), cosigner_key(origin, public)), network=network)

    def encode(self) -> str:
        """Return the policy as the text of a policy file."""
        oldest = self.oldest_checkpoint
        content = {
            "format": FORMAT,
            "origin": self.origin,
            "log_keys": [key.vkey() for key in self.log_keys],
            "witnesses": [key.vkey() for key in self.witnesses],
            "quorum": self.quorum,
            "network": None if self.network is None else self.network.hex(),
            "members": None if self.members is None else sorted(key.hex() for key in self.members),
            "oldest_checkpoint": None if oldest is None else oldest.isoformat(),
            "max_age_ms": self.max_age_ms,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def decode(cls, text: str) -> "Policy":
        """Read a policy file; fields may be left out, unknown ones are refused.

        Raises:
            PolicyInvalid: Malformed, contradictory, or with fields this version does not know.
        """
        try:
            content = json.loads(text, object_pairs_hook=_no_repeats)
        except (ValueError, RecursionError):
            raise PolicyInvalid("the policy is not JSON") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise PolicyInvalid("the policy has another format")
        if not content.keys() <= set(_NAMES):
            raise PolicyInvalid("the policy has fields that this verifier does not know")
        try:
            return _read(content)
        except (KeyError, TypeError, ValueError, AttributeError, NoteInvalid) as cause:
            raise PolicyInvalid("a field of the policy is missing or malformed") from cause


def _read(content: Mapping[str, object]) -> Policy:
    network, members = content.get("network"), content.get("members")
    return Policy(
        _text(content["origin"]),
        tuple(parse_vkey(item) for item in _texts(content["log_keys"])),
        tuple(parse_vkey(item) for item in _texts(content.get("witnesses", []))),
        _count(content.get("quorum", 0)) or 0,
        None if network is None else bytes.fromhex(_text(network)),
        None if members is None else frozenset(bytes.fromhex(item) for item in _texts(members)),
        _time(content.get("oldest_checkpoint")),
        _count(content.get("max_age_ms")),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("list expected")
    return [_text(item) for item in value]


def _count(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise TypeError("count expected")
    return value


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("a time needs a zone")
    return moment.astimezone(UTC)


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("repeated field")
    return content
