"""Spans: what a request or a message spends its time on, for the operator's own tracing back end.

Off unless a tracer is installed (``FHIR_BRIDGE_OTLP_URL``): then every call
here is one comparison. This module knows no tracing library; the tracer that
is installed does (``adapters/otlp.py``).

A trace begins with a request or a message (:func:`root`), in which the sender's
trace is gone on with. What happens outside of one makes no span.

Invariants:
    * a span's name is a word of ours or a route's template; its attributes are those of :class:`Attributes`, with
      values from closed lists, numbers, or the id that logs name a request by;
    * never an id of a record, a path, a query, a body, an error's text or anything else that a stranger wrote, but
      the numbers of the sender's own trace;
    * hidden and absent make the same spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import Enum
from typing import Final, Protocol, TypedDict, Unpack


class Attributes(TypedDict, total=False):
    """Everything that a span may tell beside its name and its times."""

    method: str
    """One that HTTP defines, or ``_OTHER``."""
    route: str
    """Template of the path, never the path."""
    status: int
    request: str
    """The id that the answer carries in ``X-Request-Id``; we draw it."""
    institution: str
    """The name it is registered under."""
    bus: str
    partition: int
    offset: int
    messages: int
    outcome: str
    """taken, refused or failed."""
    code: str
    """An error's public code, or the name of its class; it marks the span as failed."""


class Kind(Enum):
    """On which side of a call a span stands."""

    SERVER = "server"
    CONSUMER = "consumer"
    INTERNAL = "internal"
    CLIENT = "client"


class Span(Protocol):
    """A piece of work under way."""

    def note(self, **attributes: Unpack[Attributes]) -> None:
        """Add what has become known."""
        ...

    def rename(self, name: str) -> None:
        """Call it by what has become known."""
        ...

    def end(self) -> None:
        """End it now."""
        ...


class Tracer(Protocol):
    """Takes spans to wherever they are looked at; never waits, never raises."""

    def begin(
        self, name: str, kind: Kind, parent: Span | str | None, links: Sequence[Span], attributes: Attributes
    ) -> Span:
        """Begin a span below another, below a sender's (the text of its ``traceparent``), or a trace of its own."""
        ...


class _Nothing:
    """A span that is not kept."""

    def note(self, **attributes: Unpack[Attributes]) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def end(self) -> None:
        pass


NOTHING: Span = _Nothing()
_tracer: Tracer | None = None
_current: ContextVar[Span] = ContextVar("span", default=NOTHING)


def install(tracer: Tracer | None) -> None:
    """Send the spans of this process to a tracer from now on, or nowhere."""
    global _tracer
    _tracer = tracer


def is_on() -> bool:
    """Tell whether spans go anywhere; asked where even the way to no span would cost something."""
    return _tracer is not None


def root(name: str, kind: Kind, traceparent: str = "", **attributes: Unpack[Attributes]) -> Span:
    """Begin a request's or a message's span, in the trace that its sender names (W3C Trace Context) if it does."""
    return NOTHING if _tracer is None else _tracer.begin(name, kind, traceparent or None, (), attributes)


def begin(name: str, kind: Kind = Kind.INTERNAL, **attributes: Unpack[Attributes]) -> Span:
    """Begin a span below the current one, which the caller ends; nothing where there is none."""
    above = _current.get()
    return NOTHING if _tracer is None or above is NOTHING else _tracer.begin(name, kind, above, (), attributes)


def within(span: Span) -> AbstractContextManager[None]:
    """Let spans that are begun meanwhile, in this task and those it begins, stand below this one."""
    return _NO_BLOCK if span is NOTHING else _within(span)


def spanned(name: str, kind: Kind = Kind.INTERNAL, **attributes: Unpack[Attributes]) -> AbstractContextManager[None]:
    """Give a block a span of its own below the current one; it says how the block failed if it does."""
    if _tracer is None or (above := _current.get()) is NOTHING:
        return _NO_BLOCK
    return _block(_tracer.begin(name, kind, above, (), attributes), ())


def shared(name: str, above: Sequence[Span], **attributes: Unpack[Attributes]) -> AbstractContextManager[None]:
    """Give a block that works for several traces a span in each.

    What is begun within stands below the first; the others are linked with it.
    """
    wanted = () if _tracer is None else [each for each in above if each is not NOTHING]
    if _tracer is None or not wanted:
        return _NO_BLOCK
    first = _tracer.begin(name, Kind.INTERNAL, wanted[0], (), attributes)
    return _block(first, [_tracer.begin(name, Kind.INTERNAL, each, (first,), attributes) for each in wanted[1:]])


def code_of(error: BaseException) -> str:
    """Return an error's public code, or the name of its class."""
    return str(getattr(error, "code", type(error).__name__))


_NO_BLOCK: Final[AbstractContextManager[None]] = nullcontext()


@contextmanager
def _within(span: Span) -> Iterator[None]:
    token = _current.set(span)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def _block(first: Span, others: Sequence[Span]) -> Iterator[None]:
    try:
        with _within(first):
            yield
    except Exception as error:
        for each in (first, *others):
            each.note(code=code_of(error))
        raise
    finally:
        for each in (first, *others):
            each.end()
