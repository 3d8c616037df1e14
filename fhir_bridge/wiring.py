"""Settings → adapters → lines → applications; the only module that knows everything."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from fhir_bridge import tracing
from fhir_bridge.adapters.access import (
    AuthorizationServer,
    Endpoints,
    IssuerKeys,
    TokenVerifier,
    VaultReplayStore,
    is_usable_key,
    make_institution_credentials,
    make_patient_credentials,
)
from fhir_bridge.adapters.access.external_file import load_external
from fhir_bridge.adapters.access.message_jose import JoseMessages
from fhir_bridge.adapters.ambient import SystemClock, SystemRandomness
from fhir_bridge.adapters.backup import make_backup
from fhir_bridge.adapters.backup import restore as restore_backup
from fhir_bridge.adapters.checkup import LOG_SIGNER, check_everything
from fhir_bridge.adapters.datadir import DataDirectory
from fhir_bridge.adapters.import_files import ImportFiles
from fhir_bridge.adapters.kafka import KafkaBus
from fhir_bridge.adapters.kafka_settings import KafkaSettings
from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.adapters.ledger_place import is_begun, ledger_address, note_place, refusal, refuse_second
from fhir_bridge.adapters.migrations import Migrated
from fhir_bridge.adapters.one_history import require_one_history
from fhir_bridge.adapters.overflow import FileOverflows
from fhir_bridge.adapters.readiness import Readiness
from fhir_bridge.adapters.spool import Spool
from fhir_bridge.adapters.sqlite_support import Connect, OpenFile, connect_file
from fhir_bridge.adapters.vault_database import VaultDatabase
from fhir_bridge.adapters.vault_schema import migrate_vault
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.adapters.workers import InlineRooms, Large, WorkerRooms
from fhir_bridge.consent import NetworkPolicies, OwnRecords, load_policies
from fhir_bridge.errors import IntegrityBroken, KeyMissing, SetupWrong
from fhir_bridge.http.app import create_app
from fhir_bridge.http.control import create_control, lines_of
from fhir_bridge.http.measuring import create_metrics
from fhir_bridge.intake import Limits
from fhir_bridge.lines.answer import AnswerLine
from fhir_bridge.lines.audit import AuditLine
from fhir_bridge.lines.backfilling import BackfillLine
from fhir_bridge.lines.bus_reader import BusReader
from fhir_bridge.lines.charts import ChartBook
from fhir_bridge.lines.checking import Finding, Progress
from fhir_bridge.lines.claims import Claims
from fhir_bridge.lines.clients import Clients
from fhir_bridge.lines.conditional_writes import ConditionalWrites
from fhir_bridge.lines.decided import DecisionBook
from fhir_bridge.lines.decision_receipts import DecisionReceipts
from fhir_bridge.lines.delegation import DelegationLine
from fhir_bridge.lines.emergency import Emergencies, EmergencyLine
from fhir_bridge.lines.evidence import Evidence
from fhir_bridge.lines.explaining import Explaining
from fhir_bridge.lines.gauges import Gauges
from fhir_bridge.lines.grant import GrantLine
from fhir_bridge.lines.guardianship import GuardianshipLine
from fhir_bridge.lines.import_book import ImportBook
from fhir_bridge.lines.importing import ImportLine
from fhir_bridge.lines.indexes import Indexes
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.labels import Labels
from fhir_bridge.lines.matching import Matching
from fhir_bridge.lines.message_keys import MessageKeys
from fhir_bridge.lines.notary import OPERATOR_SIGNER, Notary
from fhir_bridge.lines.notices import NoticeLine
from fhir_bridge.lines.opening import Opening
from fhir_bridge.lines.operations import Operations
from fhir_bridge.lines.people import People
from fhir_bridge.lines.registry import OPERATOR, Registry
from fhir_bridge.lines.relabelling import RelabelLine
from fhir_bridge.lines.rule_story import RuleStory
from fhir_bridge.lines.rule_watch import RuleWatch
from fhir_bridge.lines.rules import Rules
from fhir_bridge.lines.services import Services
from fhir_bridge.lines.standing import Standing
from fhir_bridge.lines.translating import TranslateLine
from fhir_bridge.lines.trials import Trials, TriedRooms
from fhir_bridge.lines.unwrapping import Unwrapping
from fhir_bridge.lines.write import WriteLine
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.ports.bus import Bus
from fhir_bridge.ports.keys import KeyKind, KeyName
from fhir_bridge.ports.overflow import Overflows
from fhir_bridge.ports.rooms import Rooms
from fhir_bridge.settings import (
    AccessSettings,
    AnswerSettings,
    AuditSettings,
    ConsentSettings,
    ImportSettings,
    IndexSettings,
    IngestSettings,
    PersonSettings,
    RulesSettings,
    ServiceSettings,
    StorageSettings,
)
from ledger_core import (
    Genesis,
    Identity,
    Ledger,
    LedgerError,
    OpeningRefused,
    export_ledger,
    is_url,
    open_ledger,
    run_migrate,
)
from ledger_core import IntegrityBroken as LedgerIntegrityBroken

__all__ = ["Bridge", "check", "check_lines", "check_settings", "migrate", "open_bridge", "restore"]

DEFAULT_PORT = 8080


@dataclass(frozen=True, slots=True)
class Bridge:
    """A running bridge: the application for everybody, and the operator's two."""

    http: FastAPI
    control: FastAPI
    metrics: FastAPI
    services: Services
    relabelling: RelabelLine
    backfilling: BackfillLine
    rules: Rules
    reader: BusReader
    standing: Standing


@asynccontextmanager
async def open_bridge(
    data: Path,
    *,
    port: int | None = None,
    kafka: str | None = None,
    workers: int | None = None,
    clock: Clock | None = None,
    connect: Connect = connect_file,
    directory: DataDirectory | None = None,
) -> AsyncIterator[Bridge]:
    """Open a data directory and start the lines; on leaving, finish what was taken and close.

    Args:
        data: Made on first use.
        port: Port that ``serve`` listens on; part of the base URL that tokens are for.
        kafka: ``HOST:PORT`` of a Kafka broker; without it the embedded spool is the bus.
        workers: Worker processes, instead of the setting; 0 for none.
        clock: Instead of the machine's, so that two bridges can live through the same instants.
        directory: The directory, where the caller holds it already; closed in the end.
        connect: Opens every SQLite file; another driver can lay a disk with faults beneath them all.

    Raises:
        SetupWrong: The directory cannot be used; DataDirectoryInUse if another process holds it.
        IntegrityBroken: What is stored disagrees with itself; run fsck.
    """
    service = ServiceSettings()
    ingest_settings = IngestSettings()
    async with AsyncExitStack() as stack:
        directory = directory or DataDirectory(data)
        stack.callback(directory.close)
        if service.otlp_url:
            stack.push_async_callback(asyncio.to_thread, _trace(service.otlp_url))
        base_url = service.base_url or f"http://{service.host}:{port or DEFAULT_PORT}"
        clock, randomness = clock or SystemClock(), SystemRandomness()
        keyring = FileKeyring(data / "keys" / "keyring", os.environ.get("FHIR_BRIDGE_PASSPHRASE"))
        keys = SqliteKeyStore(data / "keys" / "keys.db", keyring, connect=connect)
        stack.callback(keys.close)
        mac = KeyName(KeyKind.VAULT_MAC, OPERATOR)
        database = _vault_database(data, connect)
        vault = SqlVault(database, keys.ensure([mac])[mac], keys.head)
        stack.push_async_callback(vault.close)
        address = ledger_address(data, _ledger_url())
        await asyncio.to_thread(refuse_second, data, address, is_in_use=await vault.is_begun())
        ledger = await asyncio.to_thread(_open_ledger, data, address, keyring, service.network, connect)
        stack.callback(ledger.close)
        ledger_file = None if is_url(address) else OpenFile(Path(address), "ledger")

        standing, committing = Standing(), asyncio.Lock()
        notary = Notary(ledger, keyring, on_stop=partial(standing.fall, "ledger"))
        registry = Registry(vault, keys, randomness)
        clients = Clients(vault, keys, randomness)
        indexes = Indexes(vault=vault, registry=registry, randomness=randomness, settings=IndexSettings())
        book = ChartBook(indexes, max_rows=AnswerSettings().index_max_rows)
        overflows = FileOverflows(data, randomness)
        rooms = _rooms(
            ingest_settings if workers is None else ingest_settings.model_copy(update={"workers": workers}), overflows
        )
        stack.push_async_callback(rooms.close)
        policies = await _policies()
        await require_one_history(vault, notary)
        await notary.start()
        await notary.register_policies(policies.digest)
        await registry.load()
        await clients.load()

        labels = Labels(
            vault=vault,
            registry=registry,
            book=book,
            notary=notary,
            randomness=randomness,
            folder=data / "labels",
            committing=committing,
        )
        await labels.load()
        rules_settings = _rules_settings()
        trials = Trials(rules_settings)
        rules = Rules(
            vault=vault,
            keys=keys,
            registry=registry,
            notary=notary,
            clock=clock,
            randomness=randomness,
            folder=data / "rulesets",
            settings=rules_settings,
            trials=trials,
        )
        await rules.load()
        stack.push_async_callback(trials.settle)
        claims = Claims(
            vault=vault,
            keys=keys,
            clock=clock,
            randomness=randomness,
            standing=standing,
            keep_s=ingest_settings.claims_keep_s,
            max_bytes=ingest_settings.max_message_bytes,
        )
        unwrapping = Unwrapping(
            vault=vault, keys=keys, registry=registry, claims=claims, crypto=JoseMessages(), randomness=randomness
        )
        ingest = IngestLine(
            vault=vault,
            keys=keys,
            registry=registry,
            book=book,
            rooms=TriedRooms(rooms, trials),
            overflows=overflows,
            unwrapping=unwrapping,
            notary=notary,
            clock=clock,
            randomness=randomness,
            settings=ingest_settings,
            standing=standing,
            committing=committing,
        )
        grant = GrantLine(
            vault=vault,
            keys=keys,
            registry=registry,
            notary=notary,
            ingest=ingest,
            clients=clients,
            rules=policies.attestation,
            clock=clock,
            randomness=randomness,
        )
        ingest.on_consent = grant.restrict
        book_of_decisions = DecisionBook(
            vault=vault, keys=keys, registry=registry, randomness=randomness, base_url=f"{base_url}/fhir"
        )
        audit = AuditLine(
            book=book_of_decisions,
            vault=vault,
            keys=keys,
            registry=registry,
            notary=notary,
            clock=clock,
            randomness=randomness,
            settings=AuditSettings(),
            standing=standing,
        )
        emergencies = Emergencies(
            vault=vault, keys=keys, registry=registry, randomness=randomness, rules=policies.emergency
        )
        await emergencies.load(clock.now())
        people = People(
            vault=vault,
            registry=registry,
            book=book,
            labels=labels,
            grant=grant,
            policies=policies,
            in_emergency=emergencies.is_open,
            base_url=base_url,
        )
        answer = AnswerLine(
            vault=vault,
            keys=keys,
            registry=registry,
            people=people,
            audit=audit,
            notary=notary,
            clock=clock,
            randomness=randomness,
            settings=AnswerSettings(),
            labels=labels,
            clients=clients,
            base_url=base_url,
        )
        decision_receipts = DecisionReceipts(
            vault=vault,
            keys=keys,
            registry=registry,
            people=people,
            grant=grant,
            audit=audit,
            notary=notary,
            clock=clock,
            randomness=randomness,
            book=book_of_decisions,
        )
        await decision_receipts.keep(policies)
        bus = _bus(data, keys, kafka, connect)
        import_book = ImportBook(vault, keys, randomness)
        import_files = ImportFiles(data / "imports", keys, connect=connect)
        stack.push_async_callback(import_files.close)
        imports = ImportLine(
            store=import_files,
            book=import_book,
            ingest=ingest,
            registry=registry,
            vault=vault,
            keys=keys,
            clock=clock,
            randomness=randomness,
            settings=ImportSettings(),
            base_url=base_url,
        )
        notices = NoticeLine(bus=bus, vault=vault, keys=keys, standing=standing)
        ingest.outboxes = (notices, import_book)
        reader = BusReader(bus=bus, vault=vault, registry=registry, ingest=ingest, clock=clock)
        endpoints = Endpoints.under(base_url)
        issuer_keys = IssuerKeys(keyring.identity("issuer"))
        issuer = AuthorizationServer(
            endpoints, issuer_keys, clients, VaultReplayStore(vault, clock), clock, randomness
        )
        verifier = TokenVerifier(
            endpoints, issuer_keys, clients, clock, load_external(AccessSettings().issuers_file, base_url, registry)
        )
        stack.push_async_callback(bus.close)
        await ingest.start()
        stack.push_async_callback(_drain, ingest, service.drain_s)
        await grant.start()
        await audit.start()
        stack.push_async_callback(_end_reading_and_audit, ingest, reader, audit, service.drain_s)
        await indexes.start()
        stack.push_async_callback(indexes.stop)
        await notices.start()
        stack.push_async_callback(notices.stop)
        await reader.start()
        claims.start(reader.behind)
        stack.push_async_callback(claims.stop)
        await imports.start()
        stack.push_async_callback(imports.stop)
        if port is not None:
            directory.point_credentials(endpoints.token_url)

        guardianship = GuardianshipLine(
            clients=clients,
            people=people,
            registry=registry,
            grant=grant,
            audit=audit,
            rules=policies.attestation,
            may_attest=notary.may_attest,
            clock=clock,
            randomness=randomness,
            is_usable=is_usable_key,
        )
        make = partial(make_institution_credentials, token_url=endpoints.token_url, randomness=randomness)
        operations = Operations(
            vault=vault,
            keys=keys,
            registry=registry,
            clients=clients,
            ingest=ingest,
            grant=grant,
            reader=reader,
            indexes=indexes,
            rooms=rooms,
            notary=notary,
            rules=rules,
            clock=clock,
            make_institution=make,
            make_patient=partial(make_patient_credentials, token_url=endpoints.token_url, randomness=randomness),
            take_over=guardianship.take_over,
            save_credentials=directory.save_credentials,
        )
        readiness = Readiness(
            directory, ledger_file, keyring, keys, vault, notary, bus, reader, ingest, standing
        ).parts
        gauges = Gauges(
            ingest=ingest,
            imports=imports,
            audit=audit,
            reader=reader,
            vault=vault,
            notary=notary,
            readiness=readiness,
        )
        services = Services(
            base_url=base_url,
            ingest=ingest,
            write=WriteLine(
                ingest=ingest,
                grant=grant,
                answer=answer,
                conditional=ConditionalWrites(ingest=ingest, registry=registry, book=book, vault=vault),
                registry=registry,
                clock=clock,
                base_url=base_url,
                settings=AnswerSettings(),
            ),
            imports=imports,
            claims=claims,
            translate=TranslateLine(registry),
            answer=answer,
            decision_receipts=decision_receipts,
            emergency=EmergencyLine(
                emergencies=emergencies, people=people, audit=audit, clock=clock, rules=policies.emergency
            ),
            delegation=DelegationLine(
                clients=clients,
                people=people,
                audit=audit,
                clock=clock,
                randomness=randomness,
                is_usable=is_usable_key,
            ),
            guardianship=guardianship,
            notary=notary,
            issuer=issuer,
            verifier=verifier,
            clock=clock,
            randomness=randomness,
            audit=audit,
            max_body_bytes=ingest_settings.max_message_bytes,
            max_body_s=ingest_settings.max_body_s,
            readiness=readiness,
            value_sets=lambda: labels.sets.names,
        )
        relabelling = RelabelLine(vault=vault, labels=labels, registry=registry, ingest=ingest, clock=clock)
        await relabelling.start()
        stack.push_async_callback(relabelling.stop)
        backfilling = BackfillLine(
            vault=vault, registry=registry, book=book, labels=labels, ingest=ingest, clock=clock
        )
        await backfilling.start()
        stack.push_async_callback(backfilling.stop)
        evidence = Evidence(vault=vault, registry=registry, notary=notary)
        story = RuleStory(vault, registry, rules)
        watch = RuleWatch(registry, rules)
        if rules_settings.watch:
            watch.start()
        stack.push_async_callback(watch.stop)
        control = create_control(
            operations,
            relabelling,
            MessageKeys(
                vault=vault, registry=registry, unwrapping=unwrapping, evidence=evidence, crypto=JoseMessages()
            ),
            Matching(
                registry=registry,
                book=book,
                opening=Opening(vault=vault, registry=registry),
                grant=grant,
                settings=PersonSettings(),
            ),
            (rules, story, watch),
            (Explaining(vault=vault, registry=registry, book=book, evidence=evidence, story=story), backfilling),
            check=partial(check_everything, data, database, keyring, address),
            export=partial(export_ledger, ledger),
            backup=partial(make_backup, data, elsewhere=_vault_elsewhere(), ledger=address),
            policy=notary.policy,
            checkpoint=notary.checkpoint,
            metrics=gauges.page,
        )
        metrics = create_metrics(gauges.page)
        yield Bridge(
            create_app(services), control, metrics, services, relabelling, backfilling, rules, reader, standing
        )


def check_settings(data: Path, kafka: str | None = None) -> None:
    """Read every setting and the files that settings name, as a start would; open nothing for writing.

    Raises:
        SetupWrong: A file cannot be read or taken, the address of Kafka is none, or the passphrase does not open the
            keyring of a directory that is being served.
        ValidationError: A setting has no such value.
    """
    for each in (AnswerSettings, AuditSettings, ImportSettings, IndexSettings, IngestSettings, StorageSettings):
        each()
    if kafka is not None:
        _kafka_settings(kafka)
    _rules_settings()
    asyncio.run(_policies())
    # Before there is this socket, another process may be making the keyring just now.
    if (data / "control.sock").exists():
        FileKeyring.open_to_read(data / "keys" / "keyring", os.environ.get("FHIR_BRIDGE_PASSPHRASE"))


def _trace(url: str) -> Callable[[], None]:
    """Begin to send traces; return what ends it."""
    from fhir_bridge.adapters.otlp import OtlpTracer

    tracer = OtlpTracer(url)
    tracing.install(tracer)

    def end() -> None:
        tracing.install(None)
        tracer.close()

    return end


def _rules_settings() -> RulesSettings:
    settings = RulesSettings()
    if settings.watch and settings.four_eyes:
        raise SetupWrong("FHIR_BRIDGE_RULES_WATCH puts in force what nobody has approved: not with four eyes")
    return settings


async def _policies() -> NetworkPolicies:
    """Return what decides beside consents; without a readable file nothing starts, for nothing may be decided."""
    name, own_records = ConsentSettings().policies_file, OwnRecords(AnswerSettings().own_records)
    try:
        file = await asyncio.to_thread(Path(name).read_bytes) if name else None
    except OSError as missing:
        raise SetupWrong("FHIR_BRIDGE_CONSENT_POLICIES_FILE cannot be read") from missing
    return load_policies(file, own_records)


async def _drain(ingest: IngestLine, drain_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ingest.stop(), drain_s)


async def _end_reading_and_audit(ingest: IngestLine, reader: BusReader, audit: AuditLine, drain_s: float) -> None:
    """Take nothing more, finish what was taken, record what was shown, tell the bus, in this order."""
    await reader.pause()
    await _drain(ingest, drain_s)
    await audit.stop()
    await reader.stop()


def restore(source: Path, keys: Path, data: Path) -> None:
    """Make a data directory, and vault and ledger where the settings say, from a backup's two folders.

    Raises:
        SetupWrong: A folder lacks a file, or the directory, the vault or the ledger is not empty.
        Unavailable: A database does not answer.
    """
    restore_backup(source, keys, data, _vault_elsewhere(), ledger_address(data, _ledger_url()))


def check(data: Path, *, deep: bool = False, checkpoint: str | None = None) -> Iterator[Finding | Progress]:
    """Check a data directory from its files alone, whether the service could open them or not.

    Raises:
        SetupWrong: There is no data directory there, or its passphrase is missing.
    """
    if not (data / "VERSION").exists():
        raise SetupWrong(f"{data} is no data directory of fhir-bridge")
    keyring = FileKeyring.open_to_read(data / "keys" / "keyring", os.environ.get("FHIR_BRIDGE_PASSPHRASE"))
    address = ledger_address(data, _ledger_url())
    return check_everything(data, _vault_database(data), keyring, address, deep, checkpoint)


def migrate(data: Path, store: str, to: int) -> Migrated:
    """Bring the vault or the ledger of a directory that nobody has open to another layout.

    Raises:
        SetupWrong: No such layout, no way to it, or the directory is in use.
        Unavailable: A database does not answer; nothing was changed.
    """
    if not (data / "VERSION").exists():
        raise SetupWrong(f"{data} is no data directory of fhir-bridge")
    directory = DataDirectory(data)
    try:
        if store == "vault":
            return migrate_vault(_vault_database(data), to)
        try:
            found, steps = run_migrate(ledger_address(data, _ledger_url()), to)
        except LedgerError as error:
            raise (SetupWrong(str(error)) if isinstance(error, OpeningRefused) else refusal(error)) from error
        return Migrated(found, to, steps)
    finally:
        directory.close()


def check_lines(data: Path, *, deep: bool = False, checkpoint: str | None = None) -> Iterator[bytes]:
    """As :func:`check`, in the lines that the control socket gives."""
    return lines_of(check(data, deep=deep, checkpoint=checkpoint))


def _open_ledger(data: Path, address: Path | str, keyring: FileKeyring, network: str, connect: Connect) -> Ledger:
    """Open the ledger, begun if there is none; the keys of one that exists are never made anew.

    Raises:
        SetupWrong: The keyring lacks the ledger's keys or holds others, or the ledger is open elsewhere.
        Unavailable: Its database does not answer.
        IntegrityBroken: Its rows disagree.
    """
    exists = is_begun(data, address)
    holder = keyring.to_read() if exists else keyring
    try:
        operator = Identity.from_private_bytes(holder.identity(OPERATOR_SIGNER))
        log_identity = Identity.from_private_bytes(holder.identity(LOG_SIGNER))
        genesis = None if exists else Genesis(network, operator.public)
        ledger = open_ledger(address, log_identity=log_identity, genesis=genesis, connect=connect)
    except KeyMissing as lost:
        raise SetupWrong(str(lost)) from lost
    except LedgerIntegrityBroken as broken:
        raise IntegrityBroken(f"the ledger does not open: {broken}") from broken
    except OpeningRefused as refused:
        raise SetupWrong(
            f"{refused}: if fsck names keyring identity-log, put that file back from the keys' backup"
        ) from refused
    except LedgerError as refused:
        raise refusal(refused) from refused
    if ledger.genesis.operator != operator.public:
        ledger.close()
        raise SetupWrong(
            "the ledger began with another operator: put keyring/identity-operator back from the keys' backup"
        )
    note_place(data, address)
    return ledger


def _rooms(settings: IngestSettings, overflows: Overflows) -> Rooms:
    limits = Limits(settings.max_message_bytes, settings.max_entries, settings.max_depth)
    large = Large(settings.large_message_bytes, overflows)
    return WorkerRooms(settings.workers, limits, large) if settings.workers else InlineRooms(limits, large)


def _vault_database(data: Path, connect: Connect = connect_file) -> VaultDatabase:
    return _vault_elsewhere() or SqliteDatabase(data / "vault.db", connect)


def _vault_elsewhere() -> VaultDatabase | None:
    """Return the vault's database if it is no file of the data directory."""
    url = StorageSettings().vault_url.get_secret_value()
    if not url:
        return None
    from fhir_bridge.adapters.vault_postgres import PostgresDatabase

    return PostgresDatabase(url)


def _ledger_url() -> str:
    return StorageSettings().ledger_url.get_secret_value()


def _bus(data: Path, keys: SqliteKeyStore, kafka: str | None, connect: Connect) -> Bus:
    if kafka is None:
        return Spool(data / "spool.db", keys, connect=connect)
    return KafkaBus(_kafka_settings(kafka))


def _kafka_settings(kafka: str) -> KafkaSettings:
    return KafkaSettings.from_url(kafka if "://" in kafka else f"kafka://{kafka}")
