"""Sends spans to an OpenTelemetry collector over HTTP; the only module that speaks to OpenTelemetry.

Spans wait in a queue and leave in batches from a thread of their own. A
collector that is away, slow or full costs spans and nothing else: what does not
fit into the queue is dropped, and closing waits for two seconds.

Invariants:
    * no exception's text and nothing of the process's environment gets into a span or its resource;
    * what the library logs is left out, for it would come with every batch; that nothing arrives is said once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Link, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace import Span as LibrarySpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fhir_bridge import __version__
from fhir_bridge.errors import SetupWrong
from fhir_bridge.telemetry import logger
from fhir_bridge.tracing import Attributes, Kind, Span

_log = logger("tracing")
_QUEUE_SPANS: Final = 8_192
_BATCH_SPANS: Final = 512
_BATCH_MS: Final = 1_000
_EXPORT_S: Final = 5.0
_CLOSE_S: Final = 2.0
_PATH: Final = "/v1/traces"
_NAMES: Final[Mapping[str, str]] = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "request": "fhir_bridge.request",
    "institution": "fhir_bridge.institution",
    "bus": "messaging.system",
    "partition": "messaging.destination.partition.id",
    "offset": "messaging.kafka.offset",
    "messages": "fhir_bridge.messages",
    "outcome": "fhir_bridge.outcome",
    "code": "error.type",
}
"""Ours → OpenTelemetry's semantic conventions (1.45), where they have a name."""
_KINDS: Final = {
    Kind.SERVER: SpanKind.SERVER,
    Kind.CONSUMER: SpanKind.CONSUMER,
    Kind.CLIENT: SpanKind.CLIENT,
    Kind.INTERNAL: SpanKind.INTERNAL,
}
_sender = TraceContextTextMapPropagator()


class OtlpTracer:
    """Keeps :class:`fhir_bridge.tracing.Tracer`'s promises."""

    def __init__(self, url: str) -> None:
        """Begin to send to a collector; whether it is there is not asked.

        Raises:
            SetupWrong: The URL is none of HTTP.
        """
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        self._exporter = _Watched(OTLPSpanExporter(endpoint=_endpoint(url), timeout=_EXPORT_S))
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),
            resource=Resource({"service.name": "fhir-bridge", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=_QUEUE_SPANS,
                schedule_delay_millis=_BATCH_MS,
                max_export_batch_size=_BATCH_SPANS,
            )
        )
        self._tracer = self._provider.get_tracer("fhir_bridge", __version__)

    def begin(
        self, name: str, kind: Kind, parent: Span | str | None, links: Sequence[Span], attributes: Attributes
    ) -> Span:
        """Begin a span; a ``traceparent`` that is none begins a trace of its own."""
        begun = self._tracer.start_span(
            name,
            context=_context(parent),
            kind=_KINDS[kind],
            links=[Link(each.inner.get_span_context()) for each in links if isinstance(each, _Begun)],
            record_exception=False,
            set_status_on_exception=False,
        )
        span = _Begun(begun)
        span.note(**attributes)
        return span

    def close(self) -> None:
        """Send what waits, for two seconds at the most."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            self._exporter.shutdown()


class _Begun:
    """A span of the library, to which nothing can be told but what the list allows."""

    __slots__ = ("inner",)

    def __init__(self, inner: LibrarySpan) -> None:
        self.inner = inner

    def note(self, **attributes: object) -> None:
        for name, value in attributes.items():
            told = str(value) if name == "partition" else value
            if isinstance(told, str | int):
                self.inner.set_attribute(_NAMES[name], told)
        if "code" in attributes or _is_failure(attributes.get("status")):
            self.inner.set_status(StatusCode.ERROR)

    def rename(self, name: str) -> None:
        self.inner.update_name(name)

    def end(self) -> None:
        self.inner.end()


class _Watched(SpanExporter):
    """Says when spans stop arriving and when they arrive again."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._arrives = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        arrives = result is SpanExportResult.SUCCESS
        if arrives is not self._arrives:
            self._arrives = arrives
            if arrives:
                _log.info("traces arrive again")
            else:
                _log.error("traces do not arrive")
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


def _context(parent: Span | str | None) -> Context:
    if isinstance(parent, _Begun):
        return set_span_in_context(parent.inner, Context())
    if isinstance(parent, str):
        # Without tracestate, in which a stranger could write anything.
        return _sender.extract({"traceparent": parent}, Context())
    return Context()


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SetupWrong("FHIR_BRIDGE_OTLP_URL must be the address of a collector, such as http://127.0.0.1:4318")
    return url if parts.path.endswith(_PATH) else url.rstrip("/") + _PATH


def _is_failure(status: object) -> bool:
    return isinstance(status, int) and status >= 500
