"""Generated histories of a vault, and the truth about them: which cells a vendor was really served.

A history is entries as dsvault writes them. Every row has an identity of its own that it keeps from version to version,
so that what the log can only say by places can be held against what happened.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from vault.audit import Entry, Kind
from vault.encoding import timestamp, to_base64
from vault.incident.picking import runs_of
from vault.rowsets import item_of

START = datetime(2026, 1, 1, tzinfo=UTC)
VENDORS = {"acme": "a" * 32, "bolt": "b" * 32, "cora": "c" * 32}
COLUMNS = ("id", "prompt", "meta", "meta.note", "score")
#: What the model's columns may leave as: whole, or by fields.
FIELDS = {"meta": (("source",), ("author",))}

#: A column as it left: dataset, version, state, shown name, masks.
Key = tuple[str, int, int, str, tuple[tuple[str, str], ...]]


@dataclass
class Shard:
    """The rows of a shard by their identities, and whom it is assigned to."""

    rows: list[int]
    holder: str | None


@dataclass
class Version:
    """A version as it stands."""

    number: int
    columns: list[str]
    shards: list[Shard]
    state: int = 0
    numbered: tuple[int, dict[int, tuple[int, int]]] | None = None

    @property
    def rows(self) -> int:
        return sum(len(shard.rows) for shard in self.shards)

    def layout(self) -> list[list[Any]]:
        """As the log has it."""
        runs: list[list[Any]] = []
        for number, shard in enumerate(self.shards):
            if runs and runs[-1][2:] == [len(shard.rows), shard.holder] and runs[-1][1] == number - 1:
                runs[-1][1] = number
            else:
                runs.append([number, number, len(shard.rows), shard.holder])
        return runs

    def starts(self) -> list[int]:
        return [sum(len(s.rows) for s in self.shards[:number]) for number in range(len(self.shards))]


@dataclass
class Dataset:
    """A dataset of the model."""

    name: str
    id: str
    versions: list[Version] = field(default_factory=list)
    erased: bool = False

    def column_id(self, name: str) -> str:
        return f"{self.name}:{name}"


@dataclass
class Grant:
    """A grant of the model."""

    id: str
    vendor: str
    dataset: Dataset
    shown: list[str]
    ids: list[str]
    cuts: dict[str, list[list[str]] | None]
    masks: dict[str, str]
    where: str | None
    delivery: str
    pinned: int | None
    expires: datetime | None
    revoked: bool = False


@dataclass
class Read:
    """A read under way: what is still to leave, shard by shard, and what of it has left."""

    number: int
    vendor: str
    who: dict[str, Any]
    keys: list[Key]
    counted: bool
    plan: list[tuple[int, np.ndarray]]
    sizes: dict[int, int]
    starts: dict[int, int]
    rows: int
    told: list[dict[str, Any]] = field(default_factory=list)
    #: Rows that left, by their places in the version, and those of them that arrived.
    left: set[int] = field(default_factory=set)
    listed: set[int] = field(default_factory=set)
    most: set[int] = field(default_factory=set)
    identities: dict[int, int] = field(default_factory=dict)
    limit: int | None = None
    filtered: bool = False
    sent: int = 0


class History:
    """Makes entries at random, and keeps the truth of the vendor ``acme``."""

    def __init__(self, seed: int, *, since: int | None = None, until: int | None = None) -> None:
        self.random = random.Random(seed)
        #: Apart, so that files that are shared beside it do not make it another history.
        self.sharing = random.Random(seed)
        self.entries: list[tuple[int, Entry]] = []
        self.now = START
        self.datasets = [Dataset(f"d{n}", f"{n}" * 32) for n in (1, 2)]
        self.grants: dict[str, Grant] = {}
        self.credentials: dict[str, dict[str, Any]] = {}
        self.frozen: set[str] = set()
        self.reads: dict[int, Read] = {}
        self.identity = 0
        self.since = START + timedelta(seconds=since) if since is not None else None
        self.until = START + timedelta(seconds=until) if until is not None else None
        #: The truth: exactly served, listed as sent by what broke, and all that may have been had; really received.
        self.exact: dict[Key, set[int]] = {}
        self.bound: dict[Key, set[int]] = {}
        self.received: dict[Key, set[int]] = {}
        #: Rows that could be read, with the identity of each place, and identities that were, or may have been, read.
        self.readable: dict[Key, dict[int, int]] = {}
        self.seen: dict[tuple[str, str, tuple[tuple[str, str], ...]], set[int]] = {}
        self.amounts = {"exact": [0, 0, 0], "bound": [0, 0, 0]}
        self.refused = 0
        #: By vendor, dataset and version the columns and shards that a compartment holds.
        self.held: dict[tuple[str, str, int], tuple[set[str], set[int]]] = {}
        self.chunks: set[bytes] = set()
        for name, identity in VENDORS.items():
            self.add(Kind.VENDOR_ADDED, vendor=name, vendor_id=identity)
        for dataset in self.datasets:
            self.publish(dataset)

    # Entries

    def add(self, kind: Kind | str, **fields: Any) -> int:
        self.now += timedelta(seconds=1)
        number = len(self.entries) + 1
        # As it comes out of the log.
        self.entries.append((number, Entry.decode(Entry(Kind(kind), self.now, fields).encode())))
        return number

    def counts(self) -> bool:
        return (self.since is None or self.since <= self.now) and (self.until is None or self.now < self.until)

    # The owner's acts

    def publish(self, dataset: Dataset) -> None:
        random_ = self.random
        before = dataset.versions[-1] if dataset.versions else None
        appended = before is not None and random_.random() < 0.7
        shards = [Shard(list(shard.rows), shard.holder) for shard in before.shards] if before and appended else []
        base = {"version": before.number, "shards": len(shards)} if before and appended else None
        for _ in range(random_.randint(1, 5)):
            size = random_.choice([8, 8, 13, 40])
            rows = list(range(self.identity, self.identity + size))
            self.identity += size
            shards.append(Shard(rows, random_.choice([None, None, None, VENDORS["acme"], VENDORS["bolt"]])))
        columns = [name for name in COLUMNS if name == "id" or random_.random() < 0.9]
        version = Version(len(dataset.versions) + 1, columns, shards)
        dataset.versions.append(version)
        self.add(
            Kind.PUBLISHED,
            dataset=dataset.name,
            dataset_id=dataset.id,
            version=version.number,
            rows=version.rows,
            columns=columns,
            column_ids=[dataset.column_id(name) for name in columns],
            groups=[f"group {dataset.name} {name}" for name in columns],
            layout=version.layout(),
            base=base,
            vendors=[],
            started=timestamp(self.now),
        )
        self.look()

    def erase(self, dataset: Dataset) -> None:
        dataset.erased = True
        identities = {row for version in dataset.versions for shard in version.shards for row in shard.rows}
        gone = set(self.random.sample(sorted(identities), min(len(identities), self.random.randint(1, 6))))
        erased, layouts = {}, {}
        for version in dataset.versions:
            count = sum(row in gone for shard in version.shards for row in shard.rows)
            version.shards = [Shard([row for row in s.rows if row not in gone], s.holder) for s in version.shards]
            version.state += 1
            layouts[str(version.number)] = version.layout()
            if count:
                erased[str(version.number)] = count
        self.add(
            Kind.ROWS_ERASED, dataset=dataset.name, dataset_id=dataset.id, rows=erased, layouts=layouts, vendors=[]
        )
        self.look()

    def fan_out(self, vendor: str, dataset: Dataset) -> None:
        version = self.random.choice(dataset.versions)
        shards = [n for n, shard in enumerate(version.shards) if shard.holder in {None, VENDORS[vendor]}]
        columns = [name for name in version.columns if self.random.random() < 0.6] or ["id"]
        self.held[vendor, dataset.name, version.number] = set(columns), set(shards)
        self.add(
            Kind.FANNED_OUT,
            vendor=vendor,
            vendor_id=VENDORS[vendor],
            dataset=dataset.name,
            dataset_id=dataset.id,
            version=version.number,
            compartment=f"compartment {vendor} {dataset.name}",
            groups=[],
            epochs={},
            columns=columns,
            column_ids=[dataset.column_id(name) for name in columns],
            shards=runs_of(shards),
            started=timestamp(self.now),
        )

    def grant(self, vendor: str) -> None:
        random_ = self.random
        dataset = random_.choice(self.datasets)
        pinned = random_.choice([None, None, random_.randint(1, len(dataset.versions))])
        version = dataset.versions[(pinned or len(dataset.versions)) - 1]
        names = [name for name in version.columns if random_.random() < 0.6] or ["id"]
        shown, cuts = [], {}
        for name in names:
            if name in FIELDS and random_.random() < 0.5:
                fields = [list(path) for path in FIELDS[name] if random_.random() < 0.6] or [["author"]]
                cuts[dataset.column_id(name)] = sorted(fields)
                shown += [f"{name}.{'.'.join(path)}" for path in sorted(fields)]
            else:
                cuts[dataset.column_id(name)] = None
                shown.append(name)
        masks = {name: "hash" for name in shown if random_.random() < 0.15}
        where = random_.choice([None, None, "score > 3"])
        lease = random_.random() < 0.3 and not masks and where is None and all(v is None for v in cuts.values())
        expires = self.now + timedelta(seconds=random_.randint(50, 4000)) if random_.random() < 0.5 else None
        grant = Grant(
            f"{len(self.entries):032x}", vendor, dataset, shown, [dataset.column_id(name) for name in names], cuts,
            masks, where, "lease" if lease else "stream", pinned, expires,
        )  # fmt: skip
        self.grants[grant.id] = grant
        self.add(
            Kind.GRANTED,
            vendor=vendor,
            vendor_id=VENDORS[vendor],
            grant=grant.id,
            dataset=dataset.name,
            dataset_id=dataset.id,
            columns=shown,
            column_ids=grant.ids,
            cuts=cuts,
            where=where,
            purpose="review",
            expires=timestamp(expires) if expires else None,
            starts=None,
            masks=masks,
            versions="latest" if pinned is None else str(pinned),
            pinned=pinned,
            limits={},
            delivery=grant.delivery,
        )
        self.look()

    def revoke(self, vendor: str) -> None:
        live = [grant for grant in self.grants.values() if grant.vendor == vendor and not grant.revoked]
        if live:
            grant = self.random.choice(live)
            grant.revoked = True
            self.add(Kind.REVOKED, vendor=vendor, vendor_id=VENDORS[vendor], grant=grant.id)

    def issue(self, vendor: str) -> None:
        identity = f"c{len(self.entries):031x}"
        expires = self.now + timedelta(seconds=self.random.randint(300, 6000))
        self.credentials[identity] = {"vendor": vendor, "expires": expires, "ended": False}
        self.add(
            Kind.CREDENTIAL_ISSUED,
            vendor=vendor,
            vendor_id=VENDORS[vendor],
            credential=identity,
            expires=timestamp(expires),
            key="jkt",
            networks=[],
            provider=None,
        )
        self.look()

    def end_credential(self, vendor: str) -> None:
        live = [i for i, c in self.credentials.items() if c["vendor"] == vendor and not c["ended"]]
        if live:
            identity = self.random.choice(live)
            self.credentials[identity]["ended"] = True
            self.add(Kind.CREDENTIAL_REVOKED, vendor=vendor, vendor_id=VENDORS[vendor], credential=identity)

    def freeze(self, vendor: str) -> None:
        if vendor in self.frozen:
            self.frozen.discard(vendor)
            self.add(Kind.THAWED, vendor=vendor, vendor_id=VENDORS[vendor])
            self.look()
        else:
            self.frozen.add(vendor)
            self.add(Kind.FROZEN, vendor=vendor, vendor_id=VENDORS[vendor])

    # What a vendor may and does read

    def live_credentials(self, vendor: str) -> list[str]:
        return [
            i
            for i, c in self.credentials.items()
            if c["vendor"] == vendor and not c["ended"] and self.now < c["expires"]
        ]

    def live_grants(self, vendor: str) -> Iterator[tuple[Grant, Version]]:
        if vendor in self.frozen or not self.live_credentials(vendor):
            return
        for grant in self.grants.values():
            if grant.vendor == vendor and not grant.revoked and (grant.expires is None or self.now < grant.expires):
                number = grant.pinned or len(grant.dataset.versions)
                yield grant, grant.dataset.versions[number - 1]

    def look(self) -> None:
        """Note what acme could read at this moment."""
        if not self.counts():
            return
        for grant, version in self.live_grants("acme"):
            places = _places(version, "acme")
            for key, _ in _keys(grant, version, grant.shown):
                self.readable.setdefault(key, {}).update(places)

    def begin(self, vendor: str) -> None:
        random_ = self.random
        live = list(self.live_grants(vendor))
        if not live:
            self.refuse(vendor)
            return
        grant, version = random_.choice(live)
        present = [key for key, _ in _keys(grant, version, grant.shown)]
        if not present:
            self.refuse(vendor)
            return
        lease = grant.delivery == "lease" and random_.random() < 0.6
        chosen = present if lease else [key for key in present if random_.random() < 0.7] or present[:1]
        who = {
            "vendor_id": VENDORS[vendor],
            "vendor": vendor,
            "credential": random_.choice(self.live_credentials(vendor)),
            "delegates": random_.choice([[], [], [{"id": "e" * 32, "to": "annotator"}]]),
            "subject": random_.choice([None, None, "someone@example"]),
            "address": random_.choice(["192.0.2.1", "192.0.2.7", "2001:db8::1"]),
            "grant": grant.id,
            "purpose": "review",
            "dataset": grant.dataset.name,
            "dataset_id": grant.dataset.id,
            "version": version.number,
        }
        ids = list(dict.fromkeys(identity for key, identity in _keys(grant, version, grant.shown) if key in chosen))
        shards = [n for n, s in enumerate(version.shards) if s.holder in {None, VENDORS[vendor]} and s.rows]
        groups = {"group x": 1 + len(self.entries) // 3000}
        common = {
            "columns": [key[3] for key in chosen],
            "column_ids": ids,
            "groups": sorted(groups),
            "epochs": groups,
            "compartment": f"compartment {vendor} {grant.dataset.name}",
        }
        if lease:
            self.lease(vendor, who, common, chosen, version, shards)
        else:
            self.stream(vendor, who, common, chosen, version, shards, grant)
            if self.sharing.random() < 0.15:
                self.share(vendor, {**who, "delegates": []}, common, chosen, version, shards, grant)

    def lease(self, vendor: str, who: Any, common: Any, keys: list[Key], version: Version, shards: list[int]) -> None:
        taken = shards[: self.random.randint(1, max(1, len(shards)))]
        chunks = [bytes([self.random.randrange(4)]) * 16 for _ in taken]
        rows = sum(len(version.shards[shard].rows) for shard in taken)
        self.add(
            Kind.LEASED,
            **who,
            **common,
            delivery="lease",
            shards=runs_of(taken),
            chunks={"group x": to_base64(b"".join(chunks))},
            rows=rows,
            bytes=rows * 10,
            until=timestamp(self.now),
        )
        if vendor != "acme" or not self.counts():
            return
        self.chunks |= set(chunks)
        self.count("bound", rows, rows * 10)
        places = {p: i for p, (i, s) in numbered(version).items() if s in taken}
        # Whether the vendor fetched them nobody knows.
        fetched = {place for place in places if self.random.random() < 0.5}
        self.happened(keys, self.bound, set(places), fetched, places)

    def share(
        self, vendor: str, who: Any, common: Any, keys: list[Key], version: Version, shards: list[int], grant: Grant
    ) -> None:
        """Files are listed, which hands nobody a row, and some of them are read, in ranges or again."""
        random_ = self.sharing
        about = {**who, **common, "delivery": "sharing", "filtered": grant.where is not None}
        about["masks"] = {key[3]: text for key in keys for place, text in key[4] if place == key[3]}
        asked = self.add(Kind.FILES_ASKED, **about, shards=runs_of(shards), until=timestamp(self.now), nonce="f" * 32)
        starts, lying = version.starts(), numbered(version)
        identities = {place: identity for place, (identity, _) in lying.items()}
        for shard in shards:
            size = len(version.shards[shard].rows)
            mask = np.array([grant.where is None or random_.random() < 0.5 for _ in range(size)])
            rows = int(mask.sum())
            if not rows:
                continue
            self.add(Kind.FILE_HANDED_OUT, **who, asked=asked, nonce="f" * 32, shard=shard, rows=rows, bytes=rows * 7)
            places = {starts[shard] + int(row) for row in np.flatnonzero(mask)}
            first = None
            for _ in range(random_.choice([0, 0, 1, 3])):
                part = random_.randint(1, 500)
                # Of several that are alike one says which rows the file has, and the others which one that is.
                which = {"again": first} if first is not None else {"served": [item_of(shard, mask)]}
                told = {**which, "rows": rows, "bytes": part, "range": [0, part], "size": 500}
                number = self.add(Kind.FILE_READ, **about, shards=[[shard, shard]], **told)
                first = number if first is None and random_.random() < 0.8 else first
                if vendor == "acme" and self.counts():
                    self.count("bound", rows, part)
                    # Which of its rows were in that range nobody can tell.
                    some = {place for place in places if random_.random() < 0.6}
                    self.happened(keys, self.bound, places, some, identities)

    def stream(
        self, vendor: str, who: Any, common: Any, keys: list[Key], version: Version, shards: list[int], grant: Grant
    ) -> None:
        random_ = self.random
        own = random_.random() < 0.2
        filtered = grant.where is not None or own
        limit = random_.choice([None, None, random_.randint(0, 60)])
        passing = {}
        for shard in shards:
            mask = np.array([not filtered or random_.random() < 0.5 for _ in version.shards[shard].rows])
            passing[shard] = mask
        resumed, left = None, limit
        if random_.random() < 0.2 and shards:
            at = random_.choice(shards)
            passed = int(passing[at].sum())
            row = random_.randint(0, passed)
            resumed = [at, row]
            skipped = np.flatnonzero(passing[at])[:row]
            passing[at] = passing[at].copy()
            passing[at][skipped] = False
            shards = [shard for shard in shards if shard >= at]
            before = row + sum(int(passing[s].sum()) for s in passing if s < at)
            left = max(0, limit - before) if limit is not None else None
        lying, starts = numbered(version), version.starts()
        number = self.add(
            Kind.READ_BEGUN,
            **who,
            **common,
            delivery="stream",
            shards=runs_of(shards),
            where="score < 9" if own else None,
            filtered=filtered,
            limit=limit,
            masks={key[3]: text for key in keys for place, text in key[4] if place == key[3]},
            resumed=resumed,
        )
        plan, rest = [], left
        for shard in shards:
            mask = passing[shard].copy()
            if rest is not None:
                mask[np.flatnonzero(mask)[rest:]] = False
                rest -= int(mask.sum())
            if mask.any():
                plan.append((shard, mask))
        read = Read(
            number, vendor, who, keys, vendor == "acme" and self.counts(), plan,
            {s: len(version.shards[s].rows) for s in shards}, {s: starts[s] for s in shards}, 0,
        )  # fmt: skip
        read.identities = {p: i for p, (i, _) in lying.items()}
        read.most, read.limit, read.filtered = _most(version, shards, resumed, limit, filtered), limit, filtered
        self.reads[number] = read

    def go_on(self, read: Read) -> None:
        """Some rows leave."""
        if not read.plan:
            return
        shard, mask = read.plan.pop(0)
        if self.random.random() < 0.3 and mask.sum() > 1:
            places = np.flatnonzero(mask)
            cut = self.random.randint(1, len(places) - 1)
            rest = mask.copy()
            rest[places[:cut]] = False
            read.plan.insert(0, (shard, rest))
            mask = mask.copy()
            mask[places[cut:]] = False
        read.told.append(item_of(shard, mask))
        read.left |= {read.starts[shard] + int(row) for row in np.flatnonzero(mask)}
        read.rows += int(mask.sum())
        if self.random.random() < 0.3:
            self.tell(read)

    def tell(self, read: Read) -> None:
        rows = read.rows - read.sent
        self.add(Kind.READ_WENT_ON, **read.who, read=read.number, served=read.told, rows=rows, bytes=rows * 7)
        read.told, read.sent = [], read.rows
        # From here on the log knows these rows, and that whatever else leaves lies behind them.
        read.listed = set(read.left)

    def end(self, read: Read, outcome: str) -> None:
        del self.reads[read.number]
        if outcome == "complete":
            while read.plan:
                self.go_on(read)
        if outcome == "killed":
            if read.listed:
                behind = sorted(row for row in read.most if row > max(read.listed))
                room = None if read.limit is None or read.filtered else max(0, read.limit - len(read.listed))
                read.most = read.listed | set(behind[:room])
            # Nothing more is written; what left after the last entry nobody knows.
            while read.plan and self.random.random() < 0.7:
                shard, mask = read.plan.pop(0)
                read.left |= {read.starts[shard] + int(row) for row in np.flatnonzero(mask)}
        else:
            self.add(
                Kind.READ_ENDED, **read.who, read=read.number, served=read.told, rows=read.rows,
                bytes=read.rows * 7, outcome=outcome,
            )  # fmt: skip
        if not read.counted:
            return
        if outcome == "complete":
            self.count("exact", read.rows, read.rows * 7)
            self.happened(read.keys, self.exact, read.left, read.left, read.identities)
        elif outcome == "killed":
            self.count("bound", len(read.most), 0)
            self.happened(read.keys, self.bound, read.most, read.left, read.identities)
        else:
            self.count("bound", read.rows, read.rows * 7)
            arrived = {row for row in read.left if self.random.random() < 0.8}
            self.happened(read.keys, self.bound, read.left, arrived, read.identities)

    def count(self, what: str, rows: int, size: int) -> None:
        found = self.amounts[what]
        found[0], found[1], found[2] = found[0] + 1, found[1] + rows, found[2] + size

    def happened(
        self,
        keys: list[Key],
        where: dict[Key, set[int]],
        said: set[int],
        received: set[int],
        identities: dict[int, int],
    ) -> None:
        for key in keys:
            where.setdefault(key, set()).update(said)
            self.received.setdefault(key, set()).update(received)
            self.seen.setdefault((key[0], key[3], key[4]), set()).update(identities[row] for row in said)

    def refuse(self, vendor: str) -> None:
        self.add(
            Kind.REFUSED,
            vendor_id=VENDORS[vendor],
            credential="f" * 32,
            delegates=[],
            subject=None,
            address="192.0.2.9",
            dataset="d1",
            columns=["id"],
            reason="NotGranted",
        )
        self.refused += vendor == "acme" and self.counts()

    def run(self, events: int) -> "History":
        """Go on until there are so many entries."""
        choices = {
            self.begin: 30, self.grant: 3, self.revoke: 1, self.issue: 2, self.end_credential: 0.5, self.freeze: 0.6,
            self.refuse: 1,
        }  # fmt: skip
        for vendor in VENDORS:
            self.issue(vendor)
            self.grant(vendor)
        while len(self.entries) < events:
            step = self.random.random()
            if self.reads and step < 0.6:
                self.step()
            elif step < 0.605:
                self.publish(self.random.choice(self.datasets)) if len(self.datasets[0].versions) < 9 else self.go()
            elif step < 0.607:
                self.erase(self.random.choice(self.datasets))
            elif step < 0.62:
                self.fan_out(self.random.choice(["bolt", "cora", "acme"]), self.random.choice(self.datasets))
            else:
                act = self.random.choices(list(choices), weights=list(choices.values()))[0]
                act(self.random.choice(["acme", "acme", "bolt", "cora"]))
        for read in list(self.reads.values()):
            # What is still going on at the end is as good as killed.
            self.end(read, "killed")
        return self

    def go(self) -> None:
        self.refuse("bolt")

    def step(self) -> None:
        read = self.random.choice(list(self.reads.values()))
        ending = self.random.random()
        if ending < 0.5:
            self.go_on(read)
        elif ending < 0.85:
            self.end(read, "complete")
        elif ending < 0.95:
            self.end(read, self.random.choice(["broken off", "Frozen", "LimitReached"]))
        else:
            self.end(read, "killed")


def _keys(grant: Grant, version: Version, shown: list[str]) -> list[tuple[Key, str]]:
    """What of a grant a version has: each shown name with its column's id, in the grant's order."""
    found = []
    at = 0
    for identity in grant.ids:
        fields = grant.cuts[identity]
        for _ in fields if fields is not None else [None]:
            name = shown[at]
            at += 1
            column = identity.split(":", 1)[1]
            if column in version.columns:
                masks = ((name, grant.masks[name]),) if name in grant.masks else ()
                found.append(((grant.dataset.name, version.number, version.state, name, masks), identity))
    return found


def numbered(version: Version) -> dict[int, tuple[int, int]]:
    """By its place in the version each row's identity and shard."""
    if version.numbered is not None and version.numbered[0] == version.state:
        return version.numbered[1]
    place, found = 0, {}
    for number, shard in enumerate(version.shards):
        for row in shard.rows:
            found[place] = row, number
            place += 1
    version.numbered = version.state, found
    return found


def _places(version: Version, vendor: str) -> dict[int, int]:
    return {
        place: row
        for place, (row, shard) in numbered(version).items()
        if version.shards[shard].holder in {None, VENDORS[vendor]}
    }


def _most(version: Version, shards: list[int], resumed: Any, limit: int | None, filtered: bool) -> set[int]:
    """All rows that a read may have had, told one by one."""
    found, starts = [], version.starts()
    for place, (_, shard) in numbered(version).items():
        row = place - starts[shard]
        behind = resumed is None or shard > resumed[0] or (shard == resumed[0] and (filtered or row >= resumed[1]))
        if shard in shards and behind:
            found.append(place)
    return set(found if limit is None or filtered else found[:limit])
