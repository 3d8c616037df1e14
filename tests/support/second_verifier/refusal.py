"""The one error of the second verifier."""


class Refused(Exception):
    """Something is false, malformed, or not what the policy asks for."""


def require(holds: bool, otherwise: str) -> None:
    """Raise Refused with the text ``otherwise`` unless ``holds``."""
    if not holds:
        raise Refused(otherwise)
