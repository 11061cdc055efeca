"""The evidence bundle's outer form: a zip of a few members, stored as they are, of which there is one byte form.

Whoever opens one need not trust it: no name is used as a path, nothing is decompressed, and a file that is not, byte
for byte, what `pack` makes of its own members is refused. So there is no room for a second member of a name, for a
member that one reader sees and another does not, or for bytes beside the members. Specified in
``docs/reference/evidence.md``.
"""

import io
import zipfile
from collections.abc import Mapping
from typing import Final

from vault.errors import IntegrityError, InvalidInput

__all__ = ["MEMBERS", "MOST_BYTES", "pack", "unpack"]

#: Every member, in this order.
MEMBERS: Final = (
    "evidence.json",
    "root.json",
    "checkpoint",
    "checkpoint-before",
    "growth.json",
    "entries.jsonl",
    "nodes",
    "heads.json",
    "coverage.json",
    "report.json",
    "report.html",
)
#: The largest bundle that is opened, in bytes: it is held in memory.
MOST_BYTES: Final = 2 << 30
#: More than a zip takes for itself.
_FRAME: Final = 16 << 10
_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)


def pack(members: Mapping[str, bytes]) -> bytes:
    """The bundle of these members, of which each must be there; raises InvalidInput where it would be too large."""
    size = sum(map(len, members.values())) + _FRAME
    if size > MOST_BYTES:
        raise InvalidInput(
            f"the evidence has {size} bytes, and a bundle {MOST_BYTES} at the most; the log in the vault keeps it all"
        )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as bundle:
        for name in MEMBERS:
            info = zipfile.ZipInfo(name, _EARLIEST)
            info.create_system, info.external_attr = 3, 0o100600 << 16
            bundle.writestr(info, members[name])
    return file.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """Inverse of `pack`; raises IntegrityError for any other bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            _check(bundle.infolist(), len(data))
            members = {name: bundle.read(name) for name in MEMBERS}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError, OSError) as error:
        raise IntegrityError("this is not an evidence bundle, or it was cut off or damaged") from error
    if pack(members) != data:
        raise IntegrityError("the bundle has something in it beside its members")
    return members


def _check(found: list[zipfile.ZipInfo], size: int) -> None:
    names = [info.filename for info in found]
    for name in names:
        if name not in MEMBERS:
            raise IntegrityError(f"the bundle has a member that no bundle has: {name[:40]!r}")
        if names.count(name) > 1:
            raise IntegrityError(f"the bundle has the member {name} twice")
    for name in MEMBERS:
        if name not in names:
            raise IntegrityError(f"the bundle lacks the member {name}")
    for info in found:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise IntegrityError(f"the bundle's member {info.filename} is compressed, which no bundle's is")
    if sum(info.file_size for info in found) > size:
        raise IntegrityError("the bundle claims to hold more than it has bytes")
