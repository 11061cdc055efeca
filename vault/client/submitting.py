"""Sending columns back for rows that were granted, such as labels, so that the lab alone can read them.

The table becomes an encrypted Parquet file under a key of its own, which is sealed to the public key in the profile:
that came from the lab, and not from the broker. The envelope is signed by the key that proves this client's requests.
What can be checked here is, so that the lab finds little to refuse. A submission whose answer was lost is sent again as
it is, and counts once.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from vault.chunks import encode, unsupported
from vault.client.datasets import Dataset, address_of
from vault.client.http import Patience
from vault.encoding import new_id
from vault.errors import Conflict, InvalidInput, NotGranted, Unavailable
from vault.incoming import check_depth, check_keys, check_labels, familiar, keys_as
from vault.model import check_column_names
from vault.submission import Bound, Envelope, Particulars, Secret, key_name, pack
from vault.wire import SUBMISSION_TYPE, OfferedGrant

__all__ = ["Submitted", "submit"]

_LENGTH: Final = struct.Struct(">I")
_NO_KEY: Final = (
    "no granted column identifies rows: ask the lab for the column that its dataset has as the row key, as it is"
)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A submission that is in the lab's quarantine: its id, its rows, its bytes, and when it was received."""

    id: str
    rows: int
    size: int
    received: str


def submit(dataset: Dataset, table: Any, grant: str | None = None, row_key: str | None = None) -> Submitted:
    """Seal a table, sign it and send it; `vault.client.Dataset.submit` says how it is to be.

    ``row_key`` names the column that identifies rows where the broker does not, which is so for versions of earlier
    releases. Raises InvalidInput for a table or a profile that will not do, Conflict where more than one grant would,
    NotGranted, Frozen, LimitReached and Unavailable.
    """
    client = dataset.client
    key, profile = client.connection.key, client.profile
    if key is None or profile.thumbprint is None:
        raise InvalidInput(
            "a submission is signed by a credential's key, and this one is bound to none: ask the lab for one that is"
        )
    if profile.submission_key is None:
        raise InvalidInput("the profile has no key to seal a submission to: ask the lab for a new credential")
    answer = client.connection.answer("GET", "/v1/datasets")
    offered = _offered(answer, dataset.name, grant)
    rows = _checked(_table(table), offered, row_key)
    version, submission = offered.version, new_id()
    bound = Bound(profile.vault, profile.vendor, profile.token.credential, offered.grant, version, submission)
    secret = Secret.fresh(bound)
    particulars = Particulars(_key_of(offered, row_key), rows.schema.serialize().to_pybytes(), profile.delegations)
    data = pack(secret.seal(particulars), memoryview(encode(rows, secret.rows_key, bound)).cast("B"))
    _check_size(answer, len(data))
    envelope = Envelope(
        submission=submission,
        vault=profile.vault,
        credential=profile.token.credential,
        grant=offered.grant,
        version=version,
        rows=rows.num_rows,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        sealed_to=key_name(profile.submission_key),
        wrapped=secret.wrapped(profile.submission_key),
    )
    signed = envelope.signed(key).encode()
    found = _sent(dataset, b"".join((_LENGTH.pack(len(signed)), signed, data)))
    if found.get("submission") != submission:
        raise Unavailable("the broker's answer is not one that this client understands")
    return Submitted(submission, rows.num_rows, len(data), str(found.get("received")))


def _sent(dataset: Dataset, body: bytes) -> dict[str, Any]:
    """What the broker answers, asked again for as long as it cannot be reached: the same submission counts once."""
    patience, path = Patience(dataset.client.patience), address_of(dataset.name, "submissions")
    while True:
        try:
            return dataset.client.connection.answer("POST", path, body, SUBMISSION_TYPE)
        except Unavailable as error:
            patience.wait(error)


def _offered(answer: dict[str, Any], name: str, grant: str | None) -> OfferedGrant:
    """The one grant that is meant."""
    entries = answer.get("grants")
    if not isinstance(entries, list):
        raise Unavailable("the broker's answer is not one that this client understands")
    offers = [OfferedGrant.parse(entry) for entry in entries]
    fitting = [each for each in offers if each.dataset == name and grant in {None, each.grant}]
    if not fitting:
        raise NotGranted("no dataset or column of that name is granted to you")
    if len(fitting) > 1:
        names = ", ".join(sorted(each.grant for each in fitting))
        raise Conflict(f"more than one grant allows this; name one of them: {names}")
    return fitting[0]


def _table(source: Any) -> pa.Table:
    try:
        if isinstance(source, pa.Table):
            return source
        if isinstance(source, pa.RecordBatch):
            return pa.Table.from_batches([source])
        if isinstance(source, pa.RecordBatchReader):
            return source.read_all()
        if hasattr(source, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(source).read_all()
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidInput("the table cannot be read as a stream of Arrow rows") from error
    raise InvalidInput("the submission is neither a table nor anything that Arrow can read")


def _key_of(offered: OfferedGrant, row_key: str | None) -> str:
    key = offered.key if offered.key is not None else row_key
    if key is None or key not in offered.schema.names or key in offered.masks:
        raise InvalidInput(_NO_KEY)
    if row_key not in {None, key}:
        raise InvalidInput(f"row_key: the column that identifies rows is {key!r}")
    return key


def _checked(table: pa.Table, offered: OfferedGrant, row_key: str | None) -> pa.Table:
    """The table as it is sent, its key column first; raises InvalidInput naming the row or column at fault."""
    key = _key_of(offered, row_key)
    check_column_names(table.column_names, "the table")
    if key not in table.column_names:
        raise InvalidInput(f"the table lacks the column {key!r}, which says what row each of its rows is about")
    labels = [name for name in table.column_names if name != key]
    if not labels:
        raise InvalidInput(f"the table has no column beside {key!r}")
    if not table.num_rows:
        raise InvalidInput("the table has no rows")
    _check_names(labels, offered.schema.names)
    check_depth(table.schema)
    table = familiar(table.select([key, *labels]).replace_schema_metadata(None))
    unsupported(table.schema)
    kind = offered.schema.field(key).type
    keys = keys_as(table.column(key), kind, key)
    check_keys(keys, key)
    check_labels(table)
    return table.set_column(0, pa.field(key, kind), keys)


def _check_names(labels: Sequence[str], granted: Sequence[str]) -> None:
    """A column of the dataset is not what comes back: values of one that was granted could only be its own or wrong."""
    known = {name.casefold() for name in granted}
    for name in labels:
        if name.casefold() in known:
            raise InvalidInput(f"the column {name!r} is one of the dataset's own; give what you send another name")


def _check_size(answer: dict[str, Any], size: int) -> None:
    told = answer.get("submissions")
    most = told.get("most_bytes") if isinstance(told, dict) else None
    # What the envelope takes is a few KiB, and counts with it.
    if isinstance(most, int) and size + 8192 > most:
        raise InvalidInput(f"the submission has {size:,} bytes, and the lab takes {most:,} at once: send it in parts")
