"""Makes ``chunks.json``: golden vectors of the format. Run by hand; a change in its output is a change of format.

python -m tests.vectors.make > tests/vectors/chunks.json
"""

import hashlib
import json
import sys

import pyarrow as pa

from vault.chunks import encode
from vault.derivation import chunk_key, key_id
from vault.encoding import canonical
from vault.model import ChunkIdentity, KeyScope


def _identity(number: int) -> ChunkIdentity:
    vault, compartment, group, chunk = (hashlib.sha256(f"{number}{part}".encode()).hexdigest()[:32] for part in "vcgk")
    return ChunkIdentity(KeyScope(vault, compartment, group, number + 1), chunk)


def vectors() -> dict[str, object]:
    """Everything but the chunk, which holds fresh random bytes each time."""
    keys = []
    for number in range(4):
        data_key, identity = hashlib.sha256(f"data key {number}".encode()).digest(), _identity(number)
        scope = identity.scope
        keys.append(
            {
                "data_key": data_key.hex(),
                "vault": scope.vault,
                "compartment": scope.compartment,
                "group": scope.group,
                "epoch": scope.epoch,
                "chunk": identity.chunk,
                "identity": identity.encode().hex(),
                "chunk_key": chunk_key(data_key, identity).hex(),
                "key_id": key_id(data_key),
                "context": scope.context(),
            }
        )
    parts = [["", "a", 0], ["a", ""], ["ä", 2**64 - 1], []]
    encodings = [{"parts": items, "bytes": canonical(*items).hex()} for items in parts]  # type: ignore[misc]
    return {"canonical": encodings, "keys": keys}


def golden_chunk() -> dict[str, str]:
    """One small chunk: two nullable columns, three rows."""
    data_key, identity = hashlib.sha256(b"data key 0").digest(), _identity(0)
    table = pa.table({"n": [1, None, 3], "s": ["a", "b", None]})
    return {"chunk": encode(table, chunk_key(data_key, identity), identity).to_pybytes().hex()}


if __name__ == "__main__":
    json.dump(vectors() | golden_chunk(), sys.stdout, indent=1)
    sys.stdout.write("\n")
