"""Other ways to keep a table encrypted, on the same data: what a user would pick instead.

Each is used as its documentation shows for this job, with AES-256-GCM or what it has in its place, zstd in Parquet, and
every file forced to disk as ours are.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

__all__ = ["RIVALS", "Rival", "sync"]


def sync(path: Path) -> None:
    """Force a file to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


class Rival:
    """A way to write a table encrypted, to read it, and to move it to another key."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{type(self).__name__}.bin"

    def write(self, table: pa.Table) -> None:
        """Encrypt and write, durably."""
        raise NotImplementedError

    def read(self) -> pa.Table:
        """Decrypt and read everything."""
        raise NotImplementedError

    def rekey(self) -> None:
        """The same data under a fresh key, durably; by default decoded and encoded."""
        self.write(self.read())


class _Memory(pe.KmsClient):
    """A KMS for CryptoFactory: wraps nothing but the test's keys, in memory."""

    def __init__(self, _config: Any) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, _master: str) -> bytes:
        return bytes(key_bytes).hex().encode()

    def unwrap_key(self, wrapped_key: str | bytes, _master: str) -> bytes:
        return bytes.fromhex(wrapped_key if isinstance(wrapped_key, str) else wrapped_key.decode())


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _leaves(f"{path}.{kind.field(index).name}", kind.field(index).type)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path


class CryptoFactory(Rival):
    """pyarrow's high-level API with a key for each column."""

    name = "pyarrow CryptoFactory, column keys"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._factory = pe.CryptoFactory(_Memory)
        self._kms = pe.KmsConnectionConfig()

    def write(self, table: pa.Table) -> None:
        # A key for each column; what is nested has to be named leaf by leaf.
        keys = {f"k-{field.name}": list(_leaves(field.name, field.type)) for field in table.schema}
        config = pe.EncryptionConfiguration(footer_key="footer", column_keys=keys, data_key_length_bits=256)
        properties = self._factory.file_encryption_properties(self._kms, config)
        with pq.ParquetWriter(self.path, table.schema, compression="zstd", encryption_properties=properties) as writer:
            writer.write_table(table, row_group_size=65_536)
        sync(self.path)

    def read(self) -> pa.Table:
        properties = self._factory.file_decryption_properties(self._kms, pe.DecryptionConfiguration())
        return pq.ParquetFile(self.path, decryption_properties=properties).read()


class _OverParquet(Rival):
    """A plain Parquet file in memory, encrypted as one."""

    def encrypt(self, data: bytes) -> bytes:
        """The ciphertext, under the present key."""
        raise NotImplementedError

    def decrypt(self, data: bytes) -> bytes:
        """Its inverse."""
        raise NotImplementedError

    def write(self, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=65_536)
        self.path.write_bytes(self.encrypt(sink.getvalue().to_pybytes()))
        sync(self.path)

    def read(self) -> pa.Table:
        return pq.read_table(pa.BufferReader(self.decrypt(self.path.read_bytes())))

    def rekey(self) -> None:
        self.path.write_bytes(self.encrypt(self.decrypt(self.path.read_bytes())))
        sync(self.path)


class Age(_OverParquet):
    """age (pyrage), X25519 and ChaCha20-Poly1305."""

    name = "age (pyrage) over Parquet"

    def __init__(self, folder: Path) -> None:
        import pyrage

        super().__init__(folder)
        self._age = pyrage
        self._identity = pyrage.x25519.Identity.generate()

    def encrypt(self, data: bytes) -> bytes:
        return bytes(self._age.encrypt(data, [self._identity.to_public()]))

    def decrypt(self, data: bytes) -> bytes:
        return bytes(self._age.decrypt(data, [self._identity]))


class AwsEncryptionSdk(_OverParquet):
    """The AWS Encryption SDK with a raw AES key, without signatures."""

    name = "AWS Encryption SDK over Parquet"

    def __init__(self, folder: Path) -> None:
        from aws_encryption_sdk import CommitmentPolicy, EncryptionSDKClient
        from aws_encryption_sdk.identifiers import Algorithm, EncryptionKeyType, WrappingAlgorithm
        from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
        from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider

        super().__init__(folder)
        secret = os.urandom(32)

        class Provider(RawMasterKeyProvider):  # type: ignore[misc]
            provider_id = "bench"

            def _get_raw_key(self, _key: str) -> Any:
                return WrappingKey(
                    wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
                    wrapping_key=secret,
                    wrapping_key_type=EncryptionKeyType.SYMMETRIC,
                )

        self._keys = Provider()
        self._keys.add_master_key("one")
        self._client = EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
        self._algorithm = Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY

    def encrypt(self, data: bytes) -> bytes:
        sealed, _ = self._client.encrypt(
            source=data, key_provider=self._keys, algorithm=self._algorithm, frame_length=1 << 20
        )
        return bytes(sealed)

    def decrypt(self, data: bytes) -> bytes:
        opened, _ = self._client.decrypt(source=data, key_provider=self._keys)
        return bytes(opened)


class TinkStreaming(_OverParquet):
    """Tink's streaming AEAD, AES256_GCM_HKDF_1MB."""

    name = "Tink streaming AEAD over Parquet"

    def __init__(self, folder: Path) -> None:
        import tink
        from tink import streaming_aead

        super().__init__(folder)
        streaming_aead.register()
        handle = tink.new_keyset_handle(streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB)
        self._primitive = handle.primitive(streaming_aead.StreamingAead)

    def encrypt(self, data: bytes) -> bytes:
        import io

        class Kept(io.BytesIO):
            """Its content outlives its being closed."""

            content = b""

            def close(self) -> None:
                self.content = self.getvalue()
                super().close()

        sink = Kept()
        with self._primitive.new_encrypting_stream(sink, b"bench") as stream:
            stream.write(data)
        return sink.content

    def decrypt(self, data: bytes) -> bytes:
        import io

        with self._primitive.new_decrypting_stream(io.BytesIO(data), b"bench") as stream:
            return bytes(stream.read())


class DuckDb(Rival):
    """DuckDB's encrypted Parquet, one key for the file.

    With the crypto module that its wheel carries, which DuckDB itself calls unsafe for writing: the safe one is an
    extension to be downloaded.
    """

    name = "DuckDB encrypted Parquet"

    def __init__(self, folder: Path) -> None:
        import duckdb

        super().__init__(folder)
        self.path = folder / "duckdb.parquet"
        self._database = duckdb.connect()
        self._database.execute("SET force_mbedtls_unsafe = 'true'")
        self._database.execute("PRAGMA add_parquet_key('k', '0123456789abcdef0123456789abcdef')")

    def write(self, table: pa.Table) -> None:
        self._database.register("source", table)
        self._database.execute(
            f"COPY source TO '{self.path}' (FORMAT parquet, CODEC zstd, ROW_GROUP_SIZE 65536, "
            "ENCRYPTION_CONFIG {footer_key: 'k'})"
        )
        sync(self.path)

    def read(self) -> pa.Table:
        query = f"SELECT * FROM read_parquet('{self.path}', encryption_config = {{footer_key: 'k'}})"
        return self._database.sql(query).to_arrow_table()


RIVALS: tuple[Callable[[Path], Rival], ...] = (CryptoFactory, AwsEncryptionSdk, TinkStreaming, Age, DuckDb)
