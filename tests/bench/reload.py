"""How long it takes from saving a file of a pack until messages are done by it, while messages flow.

    FHIR_BRIDGE_RULES_WATCH=true python -m tests.bench.reload [--pack mappings/harbor] [--saves 20] [--workers 2]

A pack is copied, a service in this process watches it, senders keep sending, and a comment is written into one rule
file again and again. Two times are taken for each save: until the new rules are in force, and until a message that
was sent then has been answered as durable and anchored.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from tests.support.bridge_world import ROOT, World, fresh, observation, patient, running


async def measure(pack: Path, saves: int, workers: int, senders: int, pause_s: float) -> dict[str, object]:
    """Save so many times; return milliseconds."""
    in_force: list[float] = []
    answered: list[float] = []
    is_over = asyncio.Event()
    sent = 0

    async def keep_sending(world: World, sender: int) -> None:
        nonlocal sent
        while not is_over.is_set():
            sent += 1
            await world.send(observation(f"o{sent}", f"p{sender}"))
            await asyncio.sleep(pause_s)

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "mappings" / pack.name
        shutil.copytree(pack, copy)
        shutil.copytree(pack.parent / "core", copy.parent / "core")
        file = max(copy.glob("*.yaml"), key=lambda each: each.name != "source.yaml")
        async with running(fresh(Path(folder)), workers=workers) as world:
            registry = world.bridge.relabelling._registry
            given = {"name": "northgate", "fhir_version": "R4", "ruleset_dir": str(copy)}
            assert (await world.control.post("/institutions", json=given)).status_code == 200
            for sender in range(senders + 1):
                await world.send(patient(f"p{sender}"))
            tasks = [asyncio.create_task(keep_sending(world, each)) for each in range(senders)]
            await asyncio.sleep(2)
            begun, before_sent = time.perf_counter(), sent
            for number in range(saves):
                before = registry.institutions["northgate"].ruleset
                saved = time.perf_counter()
                with file.open("a") as text:
                    text.write(f"# save {number}\n")
                while registry.institutions["northgate"].ruleset == before:
                    await asyncio.sleep(0.001)
                in_force.append((time.perf_counter() - saved) * 1000)
                await world.send(observation(f"after-{number}", f"p{senders}"))
                answered.append((time.perf_counter() - saved) * 1000)
                await asyncio.sleep(0.3)
            rate = (sent - before_sent) / (time.perf_counter() - begun)
            is_over.set()
            await asyncio.gather(*tasks)
    return {
        "saves": saves,
        "messages_per_s": round(rate),
        "in_force_ms": _told(in_force),
        "first_answer_ms": _told(answered),
    }


def _told(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median": round(statistics.median(ordered), 1),
        "p90": round(ordered[int(len(ordered) * 0.9)], 1),
        "max": round(ordered[-1], 1),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, default=ROOT / "mappings" / "harbor")
    parser.add_argument("--saves", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--senders", type=int, default=2)
    parser.add_argument("--pause-ms", type=float, default=0, help="what each sender waits before its next message")
    given = parser.parse_args()
    os.environ["FHIR_BRIDGE_RULES_WATCH"] = "true"
    found = asyncio.run(
        measure(given.pack.resolve(), given.saves, given.workers, given.senders, given.pause_ms / 1000)
    )
    print(json.dumps(found | {"load": os.getloadavg()[0]}, indent=2))


if __name__ == "__main__":
    main()
