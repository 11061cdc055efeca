"""The SQL catalog: wrapped keys, signed statements, versions, jobs and the log's rows.

The catalog is not trusted: whatever it says about access is checked against signed heads by its
readers. Names and other text for people are sealed before they reach it.
"""

from vault.catalog.changes import BACKED_UP, Change, change_digest, read_rows
from vault.catalog.engine import Catalog, open_catalog
from vault.catalog.records import (
    BackupRow,
    ChangeRow,
    CompartmentRow,
    CredentialRow,
    DatasetRow,
    GrantRow,
    HeadRow,
    HolderRow,
    JobRow,
    KeyRow,
    LogRow,
    LogTailRow,
    RootRow,
    SubmissionRow,
    VersionRow,
)
from vault.catalog.sealed import FieldSealer, SealedBlob, SealedValue
from vault.catalog.submitted import WAITING
from vault.catalog.transaction import Transaction

__all__ = [
    "BACKED_UP",
    "WAITING",
    "BackupRow",
    "Catalog",
    "Change",
    "ChangeRow",
    "CompartmentRow",
    "CredentialRow",
    "DatasetRow",
    "FieldSealer",
    "GrantRow",
    "HeadRow",
    "HolderRow",
    "JobRow",
    "KeyRow",
    "LogRow",
    "LogTailRow",
    "RootRow",
    "SealedBlob",
    "SealedValue",
    "SubmissionRow",
    "Transaction",
    "VersionRow",
    "change_digest",
    "open_catalog",
    "read_rows",
]
