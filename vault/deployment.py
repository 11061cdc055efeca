"""Wiring: the one place that turns configuration into concrete parts.

A vault directory has ``dsvault.toml`` (which marks it), ``owner/`` (configuration, the authority's and the
other owner keys, the owner's KMS key when local) and ``broker/`` (what a broker needs). `open_owner` reads both,
`open_broker` reads ``broker/`` alone and works where ``owner/`` is absent.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vault import keyfile
from vault.audit import Kind
from vault.catalog import Catalog, RootRow, open_catalog
from vault.configuration import DEFAULT_ENDPOINT, Configuration, WitnessPlace, named
from vault.encoding import new_id, timestamp, utcnow
from vault.engines import LocalEngine
from vault.errors import InvalidInput, NotFound, Unavailable
from vault.keyring import CacheLimits, Keyring
from vault.kms import AnnouncingKms, HashingKms, Kms, LocalKms, open_kms
from vault.model import OWNER
from vault.networks import check_endpoint
from vault.objects import ObjectStore, open_store, probe
from vault.proof import normal_uri
from vault.settings import SETTINGS, from_environment, refuse_unknown
from vault.trust import Role, RoleKeys, Signer, public_key_id, root_statement
from vault.trust.root import decode_chain, encode_chain
from vault.upgrading import Upgraded, upgrade_catalog
from vault.vendors import add_holder
from vault.workings.backups import Backups
from vault.workings.chain import SIGNERS
from vault.workings.heads import Heads
from vault.workings.journal import Journal, Witness
from vault.workings.keyfolder import KeyFolder, kind_of, make_key
from vault.workings.names import Holder
from vault.workings.opened import OpenedKeys
from vault.workings.parts import Lately, Manifests, OwnerParts, Parts, Signers, Times, checked_vault
from vault.workings.roots import Roots
from vault.workings.spooled import Spools

__all__ = [
    "DEFAULT_ENDPOINT",
    "MARKER",
    "Configuration",
    "WitnessPlace",
    "catalog_of",
    "find_vault",
    "init",
    "open_broker",
    "open_owner",
    "open_witness",
    "passphrase",
    "upgrade",
    "witness_of",
]

_LOG = logging.getLogger("dsvault")
MARKER = "dsvault.toml"
#: What a new vault has of its own.
_OF_ONE_VAULT = frozenset({"vault", "root_fingerprint", "owner"})
_DEVICE = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*/?")
#: Tasks that are under way at once where most of each is waiting for a store, by whether a broker runs them.
_REQUESTS = {False: 8, True: 32}
Wrap = Callable[[Kms], Kms]


def passphrase() -> str | None:
    """The passphrase of key files, from ``DSVAULT_PASSPHRASE``; an empty one counts as none.

    Raises InvalidInput where the environment has a misspelt setting: it may be this one.
    """
    refuse_unknown()
    return os.environ.get("DSVAULT_PASSPHRASE") or None


def find_vault(given: str | None = None) -> Path:
    """The vault's directory: the given one, else ``$DSVAULT``, else the nearest marker upwards."""
    place = given or os.environ.get("DSVAULT")
    if place:
        folder = Path(place)
        # Without a file in it the environment says the rest; the log key is there in any case.
        if not (folder / "broker").is_dir() and not (folder / "owner").exists():
            raise NotFound(f"{folder}: there is no vault here; 'dsvault init' makes one")
        return folder.absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / MARKER).exists():
            return folder
    raise NotFound("there is no vault here or above; give --vault DIR, set DSVAULT, or run 'dsvault init'")


def init(
    folder: Path,
    *,
    store: str | None = None,
    catalog: str | None = None,
    kms: str | None = None,
    endpoint: str | None = None,
    witness: str | None = None,
    witness_required: bool = False,
) -> None:
    """Make a new vault; whatever is not given lies inside ``folder``, and without ``witness`` there is none.

    What the environment says is used, and left to it: it is not written to the vault's files. Raises InvalidInput when
    there is a vault already, or when a URL cannot be used. A run that was killed leaves no marker, and the next one
    says what to remove.
    """
    if (folder / MARKER).exists() or (folder / "owner").exists() or (folder / "broker").exists():
        raise InvalidInput(f"{folder}: there is a vault, or the rest of one, here already")
    vault, owner = new_id(), new_id()
    given = {"store": store, "catalog": catalog, "kms": kms, "endpoint": endpoint, "witness.url": witness}
    told = _told({**given, "witness.required": witness_required or None})
    place = WitnessPlace(told["witness.url"], told["witness.required"]) if "witness.url" in told else None
    configuration = Configuration(
        vault=vault,
        store=told.get("store", "store"),
        catalog=told.get("catalog", "sqlite:///catalog.db"),
        kms=told.get("kms", "local:"),
        endpoint=told.get("endpoint", DEFAULT_ENDPOINT),
        root_fingerprint="",
        owner=owner,
        witness=place,
        sources={key: variable for key, (variable, _) in from_environment().items()},
    )
    # Whatever can be wrong with the URLs is found before anything is written.
    with named(configuration):
        check_endpoint(configuration.endpoint, "--endpoint")
        objects, beside = _open_store(folder, configuration.store), _open_witness(folder, configuration)
        found = open_catalog(_catalog_url(folder, configuration.catalog))
        found.reach()
        if found.is_server and found.about("vault") is not None:
            raise InvalidInput("--catalog: the catalog already belongs to a vault")
        found.close()
        service = open_kms(configuration.kms, owner=folder / "owner", broker=folder / "broker", passphrase=passphrase())
        if not isinstance(service, LocalKms):  # whose folders are yet to be made
            service.reach()
        probe(objects)
        _refuse_used(objects)
        if beside is not None:
            # A witness may well be a place where nothing is ever deleted.
            probe(beside.store, "--witness", deletes=False)
    for part in (folder, folder / "owner", folder / "owner" / "keys", folder / "broker"):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    fingerprint = _make_keys(folder, vault)
    configuration = replace(configuration, root_fingerprint=fingerprint)
    _write_text(folder / "owner" / "config.toml", configuration.text())
    _write_text(folder / "broker" / "config.toml", replace(configuration, owner=None).text())
    _fill_catalog(folder, configuration, owner)
    _write_text(folder / MARKER, f'# This directory is a dsvault vault.\nvault = "{vault}"\n')


def _refuse_used(store: ObjectStore) -> None:
    """Raise InvalidInput for another vault's store: what the two would have under one name could not be told apart."""
    try:
        used = any(True for _ in store.list("roots"))
    except Unavailable as error:
        raise InvalidInput(f"--store: the store cannot be used: {error}") from error
    if used:
        raise InvalidInput("--store: the store already belongs to a vault; give another bucket or prefix")


def _told(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a new vault is told, by option or by the environment; raises InvalidInput where the two differ.

    A vault's own settings win over its files, so that what the option said would be overruled at the next command.
    """
    environment, told = from_environment(), {key: value for key, value in given.items() if value is not None}
    for setting in SETTINGS:
        found = environment.get(setting.key or "")
        if found is None:
            continue
        if setting.key in _OF_ONE_VAULT:
            raise InvalidInput(f"{setting.variable}: the environment has the setting of a vault that is there already")
        if told.setdefault(setting.key or "", found[1]) != found[1]:
            raise InvalidInput(f"{setting.option}: {setting.variable} says otherwise, and would win from now on")
    required = told.setdefault("witness.required", False)
    if required and "witness.url" not in told:
        raise InvalidInput("--witness-required: there is no --witness")
    return told


def _make_keys(folder: Path, vault: str) -> str:
    """Make every private key and the root document that names them; returns its fingerprint."""
    roles = {Role.APPROVER: RoleKeys({}, 1)}  # whose keys are others', and come by a change of the root document
    keys = KeyFolder(folder, passphrase())
    for role in (role for role in Role if role not in roles):
        public = make_key(role, keys.folder(role) / f"{role.value}.json", keys.passphrase)
        roles[role] = RoleKeys({public_key_id(public): public}, 1)
    path = keys.folder(Role.ADMINISTRATOR) / f"{Role.ADMINISTRATOR.value}.json"
    administrator = Signer(keyfile.read(path, kind_of(Role.ADMINISTRATOR), keys.passphrase))
    root = root_statement(vault, 1, roles, [administrator])
    _write_text(folder / "broker" / "root.json", encode_chain([root]).decode())
    return root.digest


def _fill_catalog(folder: Path, configuration: Configuration, owner: str) -> None:
    catalog = open_catalog(_catalog_url(folder, configuration.catalog))
    catalog.create(configuration.vault)
    (first,) = decode_chain((folder / "broker" / "root.json").read_bytes())
    with catalog.write() as transaction:
        transaction.add_root(RootRow(1, first.encode()))
    catalog.close()
    parts = open_owner(folder)
    parts.root.announce()
    holder = Holder(owner, OWNER, parts.kms.create_key(owner, owner=True), timestamp(parts.clock()))
    with parts.catalog.write() as transaction:
        add_holder(parts, transaction, holder, None)
        parts.journal.record_in(transaction, Kind.INIT, vault=configuration.vault, owner=owner, key=holder.kms_key)
    parts.journal.checkpoint()
    parts.catalog.close()


def _write_text(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _open_store(folder: Path, url: str) -> ObjectStore:
    return open_store(url if "://" in url or Path(url).is_absolute() else str(folder.absolute() / url))


def _open_witness(folder: Path, configuration: Configuration) -> Witness | None:
    place = configuration.witness
    if place is None:
        return None
    return Witness(open_witness(folder, place.url), place.required)


def open_witness(folder: Path, url: str) -> ObjectStore:
    """A witness by its fsspec URL, or a path from the vault's directory on; raises InvalidInput."""
    return open_store(url if "://" in url or Path(url).is_absolute() else str(folder.absolute() / url), "--witness")


def _catalog_url(folder: Path, url: str) -> str:
    """A SQLite URL with a relative path means one inside the vault's directory."""
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith(prefix + "/"):
        return prefix + quote(str(folder.absolute()), safe="/ :") + "/" + url.removeprefix(prefix)
    return url


def catalog_of(folder: Path, configuration: Configuration) -> Catalog:
    """The catalog that a vault's configuration names."""
    return open_catalog(_catalog_url(folder, configuration.catalog))


def witness_of(folder: Path, configuration: Configuration) -> Witness | None:
    """The witness that a vault's configuration names, if it names one."""
    return _open_witness(folder, configuration)


def _roots(folder: Path, configuration: Configuration, catalog: Catalog, store: ObjectStore) -> Roots:
    path = folder / "broker" / "root.json"
    try:
        # Where a configuration stands in a file, so does the root document, and is missed where it is gone.
        bare = not (path.exists() or (path.parent / "config.toml").exists())
        return Roots(None if bare else path, configuration.root_fingerprint, catalog, store)
    except OSError as error:
        raise InvalidInput(f"{path}: the root document cannot be read") from error


def _journal(
    folder: Path, configuration: Configuration, catalog: Catalog, roots: Roots, store: ObjectStore, keys: KeyFolder
) -> Journal:
    with named(configuration):
        witness = _open_witness(folder, configuration)
    return Journal(roots, catalog, store, lambda root: keys.signer(Role.LOG, root), utcnow, witness)


def upgrade(folder: Path) -> Upgraded:
    """Bring the catalog to this release's schema; nothing else of the vault is looked at before that is done.

    Raises OtherSchema, IntegrityError and Unavailable; then nothing was changed.
    """
    configuration = Configuration.read(folder / "owner" / "config.toml")
    with named(configuration):
        catalog = open_catalog(_catalog_url(folder, configuration.catalog))
    try:
        with named(configuration):
            store = _open_store(folder, configuration.store)
        roots = _roots(folder, configuration, catalog, store)
        keys = KeyFolder(folder, passphrase())
        journal = _journal(folder, configuration, catalog, roots, store, keys)
        return upgrade_catalog(catalog, journal, configuration.vault or roots.vault)
    finally:
        catalog.close()


def _shared(
    folder: Path,
    configuration: Configuration,
    kms: Kms,
    keys: KeyFolder,
    limits: CacheLimits | None,
    *,
    serving: bool = False,
) -> tuple[dict[str, Any], Kms]:
    """What a broker and an owner have alike, and the KMS, which announces in the log what it is asked to open."""
    with named(configuration):
        catalog: Catalog = open_catalog(_catalog_url(folder, configuration.catalog), serving=serving)
        store = _open_store(folder, configuration.store)
    roots = _roots(folder, configuration, catalog, store)
    vault = configuration.vault or roots.vault
    # A catalog of another vault, or without the log's key, is found out before anything else is asked.
    catalog.check(vault)
    keys.signer(Role.LOG, roots.current)
    journal = _journal(folder, configuration, catalog, roots, store, keys)
    announcing = AnnouncingKms(kms, OpenedKeys(catalog, journal, utcnow).note)
    keyring = Keyring(announcing, limits=limits or configuration.data_keys)
    shared = {
        "vault": vault,
        "root": roots,
        "catalog": catalog,
        "store": store,
        "keyring": keyring,
        "journal": journal,
        "heads": Heads(roots, catalog, store),
        "manifests": Manifests(),
        # What is reached by requests is waited for, and not worked on.
        "engine": LocalEngine(shared=serving, threads=None if store.is_local else _REQUESTS[serving]),
        "times": Times(catalog),
        "lately": Lately(keyring.age if serving else 0),
        "spool": configuration.sharing,
        "spools": Spools(store),
        "clock": utcnow,
    }
    return shared, announcing


def open_broker(
    folder: Path,
    *,
    kms_wrap: Wrap = lambda kms: kms,
    limits: CacheLimits | None = None,
    key_age: timedelta | None = None,
) -> tuple[Parts, Configuration]:
    """The parts of a broker, from ``broker/`` alone, or from the environment with no more there than the log key.

    ``kms_wrap`` may put something around the KMS; ``limits``, or ``key_age`` alone, stand in for the configured ones.
    """
    configuration = Configuration.read(folder / "broker" / "config.toml")
    if key_age is not None:
        limits = replace(limits or configuration.data_keys, age=key_age.total_seconds())
    with named(configuration):
        kms = open_kms(configuration.kms, owner=None, broker=folder / "broker", passphrase=passphrase())
    keys = KeyFolder(folder, passphrase())
    shared, _ = _shared(folder, configuration, kms_wrap(kms), keys, limits, serving=True)
    parts = Parts(**shared)
    checked_vault(parts)
    parts.journal.refuse_rollback()
    return parts, configuration


def open_owner(
    folder: Path, *, kms_wrap: Wrap = lambda kms: kms, limits: CacheLimits | None = None, urgent: bool = False
) -> OwnerParts:
    """The owner's parts; its signing keys are opened only when an act needs them.

    ``urgent`` is for what only takes access away: it is not held up by a store that cannot be reached.
    """
    if (folder / "broker" / "config.toml").exists() and not (folder / "owner" / "config.toml").exists():
        raise NotFound(f"{folder}: the owner's part of the vault is not here; only a broker can run")
    configuration = Configuration.read(folder / "owner" / "config.toml")
    if configuration.owner is None:
        raise InvalidInput(f"{folder / 'owner' / 'config.toml'}: the setting 'owner' is missing")
    with named(configuration):
        kms = open_kms(configuration.kms, owner=folder / "owner", broker=folder / "broker", passphrase=passphrase())
    keys = KeyFolder(folder, passphrase())
    shared, announcing = _shared(folder, configuration, kms_wrap(kms), keys, limits)
    roots: Roots = shared["root"]
    signers = Signers(
        authority=lambda: keys.signer(Role.AUTHORITY, roots.current),
        responder=lambda: keys.signer(Role.RESPONDER, roots.current),
        publisher=lambda: keys.signer(Role.PUBLISHER, roots.current),
        keys=keys,
    )
    backups = _backups(roots, shared["catalog"], shared["store"], keys)
    parts = OwnerParts(**shared, kms=announcing, owner=configuration.owner, signers=signers, backups=backups)
    checked_vault(parts)
    try:
        parts.journal.refuse_rollback()
    except Unavailable as error:
        if not urgent:
            raise
        _LOG.warning("the store cannot say whether the catalog was rolled back (%s)", error)
    return parts


def _backups(roots: Roots, catalog: Catalog, store: ObjectStore, keys: KeyFolder) -> Backups:
    """What backs a catalog up, behind every commit that changes an administrative table."""
    backups = Backups(roots, catalog, store, lambda root: keys.any_signer(SIGNERS, root), utcnow)
    catalog.after_change = backups.after_commit
    return backups


def kms_uri(folder: Path) -> str:
    """The URI of the vault's KMS."""
    return Configuration.read(folder / "owner" / "config.toml").kms


def audit_hasher(folder: Path, device: str) -> Callable[[str], str]:
    """What hashes a text as an audit device of the vault's OpenBao does; raises InvalidInput where there is none."""
    kms = open_kms(kms_uri(folder), owner=None, broker=None, passphrase=None)
    if not isinstance(kms, HashingKms):
        raise InvalidInput("--audit-device: the vault's KMS has no audit devices; only OpenBao's transit engine does")
    if not _DEVICE.fullmatch(device):
        raise InvalidInput("--audit-device: give the path of an audit device, such as file, as 'bao audit list' has it")
    return lambda text: kms.audit_hash(device.strip("/"), text)


def grace(folder: Path) -> timedelta:
    """How long gc leaves what was superseded, as the owner's configuration says."""
    return Configuration.read(folder / "owner" / "config.toml").grace


def change_passphrase(folder: Path, new: str | None) -> int:
    """Seal every key file of a vault under another passphrase, or (``None``) under none; returns how many there are.

    May be killed and run again with the same two passphrases: what is under the new one already is passed over.
    Raises InvalidInput for a wrong passphrase before anything is changed.
    """
    if new == "":
        raise InvalidInput("an empty passphrase protects nothing; give one, or --none")
    configuration = Configuration.read(folder / "owner" / "config.toml")
    old = passphrase()
    files = [*sorted((folder / "broker").glob("log*.json")), *sorted((folder / "owner" / "keys").rglob("*.json"))]
    for path in files:
        file = keyfile.load(path)
        if file.elsewhere is not None:
            continue  # the private key is in a KMS
        try:
            file.open(old)
        except InvalidInput:
            file.open(new)
    kms = open_kms(configuration.kms, owner=folder / "owner", broker=folder / "broker", passphrase=old)
    count = kms.change_passphrase(new) if isinstance(kms, LocalKms) else 0
    for path in files:
        with keyfile.exclusive(path.parent):
            keyfile.reseal(path, old, new)
    return count + len(files)


def broker_endpoints(folder: Path, named: Sequence[str]) -> tuple[str, ...]:
    """The base URLs that a broker goes by: those that are named, and the one that profiles have by default.

    Raises InvalidInput for one that is not an http or https URL.
    """
    for url in named:
        try:
            normal_uri(url)
        except ValueError as error:
            raise InvalidInput(f"--endpoint: {url[:200]!r} is no base URL such as https://lab.example:8750") from error
    return (*named, Configuration.read(folder / "broker" / "config.toml").endpoint)


def endpoint(folder: Path) -> str:
    """The broker's configured base URL."""
    return Configuration.read(folder / "owner" / "config.toml").endpoint
