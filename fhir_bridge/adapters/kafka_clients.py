"""What every client of the Kafka library needs: its errors in our words, and an end that never hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient  # type: ignore[import-untyped]
from aiokafka.conn import create_conn  # type: ignore[import-untyped]
from aiokafka.errors import (  # type: ignore[import-untyped]
    IllegalStateError,
    KafkaError,
    MessageSizeTooLargeError,
)

from fhir_bridge.errors import Issue, RecordRefused, Unavailable

_CLOSE_LIMIT_S: Final = 1.0


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn the library's errors into ours; the message names the kind of error and never a value.

    Raises:
        RecordRefused: The message is longer than the broker takes.
        Unavailable: Anything else that the library or the network raised.
    """
    try:
        yield
    except MessageSizeTooLargeError as error:
        issue = Issue("error", "too-long", "the message is longer than the bus takes")
        raise RecordRefused([issue]) from error
    except (KafkaError, IllegalStateError, OSError, TimeoutError) as error:
        raise Unavailable(f"Kafka: {type(error).__name__}") from error


async def why_not(connection: Mapping[str, Any]) -> Exception | None:
    """Return why no broker can be connected to, of which the library tells its own log alone; None if one can.

    Args:
        connection: What every client is made with.
    """
    asked = {name: value for name, value in connection.items() if name != "bootstrap_servers"}
    for address in connection["bootstrap_servers"]:
        host, _, port = address.rpartition(":")
        try:
            (await create_conn(host, int(port), **asked)).close()
        except (KafkaError, OSError, TimeoutError, ValueError) as error:
            return error
    return None


async def stop_client(client: Any) -> None:
    """Close a client without waiting long for a broker that is gone; never raises."""
    close = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    if await _finishes(close()):
        return
    # aiokafka 0.14 leaves sockets and tasks behind when stop() ends early: a fetch task cancelled while it backs off
    # ends Fetcher.close with CancelledError, and a producer without a broker waits for its buffer to empty.
    if isinstance(client, AIOKafkaProducer):
        await _finishes(client._sender.close())
    await _finishes((client.client if isinstance(client, AIOKafkaProducer) else client._client).close())


async def _finishes(closing: Coroutine[Any, Any, None]) -> bool:
    """Run in a task of its own, so that a cancellation inside is not taken for one of ours."""
    task = asyncio.create_task(closing)
    done, _ = await asyncio.wait({task}, timeout=_CLOSE_LIMIT_S)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=_CLOSE_LIMIT_S)
    return not task.cancelled() and task.done() and task.exception() is None
