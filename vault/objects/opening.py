"""From a URL to a store: which packages there are, and how each puts an object that must not exist yet."""

from typing import Any, Final

import fsspec

from vault.errors import InvalidInput
from vault.objects.files import Files, LocalFiles, MemoryFiles, UnknownFiles
from vault.objects.s3 import S3Files, options
from vault.objects.store import ObjectStore

__all__ = ["open_store"]

_S3: Final = frozenset({"s3", "s3a"})
_GCS: Final = frozenset({"gs", "gcs"})
_AZURE: Final = frozenset({"abfs", "abfss", "az", "adl"})
#: The optional part of dsvault that brings the package for a scheme.
_EXTRAS: Final = {_S3: "s3", _GCS: "gcs", _AZURE: "azure"}


def open_store(url: str, option: str = "--store") -> ObjectStore:
    """Open a store by fsspec URL or plain path; raises InvalidInput, naming the option, for one that cannot be used."""
    scheme = url.partition("://")[0] if "://" in url else "file"
    extra = next((name for schemes, name in _EXTRAS.items() if scheme in schemes), None)
    # Settings of fsspec's own configuration files and environment count, save where they would do harm.
    settings = options(fsspec.config.conf.get("s3") or {}) if scheme in _S3 else {}
    try:
        filesystem, prefix = fsspec.core.url_to_fs(url, **settings)
    except ImportError as error:
        needed = (
            f"needs what 'pip install dsvault[{extra}]' brings" if extra else "needs a package that is not installed"
        )
        raise InvalidInput(f"{option}: a {scheme}:// URL {needed}") from error
    except Exception as error:
        # Whatever a package says of it may quote the URL, or a credential from the environment.
        raise InvalidInput(
            f"{option}: the URL cannot be used, or what its package needs from the environment is missing "
            f"({type(error).__name__})"
        ) from error
    if extra is not None and not prefix.strip("/"):
        raise InvalidInput(f"{option}: the URL names no bucket")
    return ObjectStore(_files(filesystem, prefix), prefix)


def _files(filesystem: Any, prefix: str) -> Files:
    protocol = filesystem.protocol
    names = {protocol} if isinstance(protocol, str) else set(protocol)
    if "file" in names:
        return LocalFiles(filesystem)
    if "memory" in names:
        return MemoryFiles(filesystem)
    # A package of somebody else's may have taken the scheme: s3fs is known by what it is asked for.
    if names & _S3 and hasattr(filesystem, "call_s3"):
        return S3Files(filesystem)
    # gcsfs refuses in ``pipe_file`` alone, what it opens with ``xb`` overwrites; adlfs refuses in both.
    if names & (_GCS | _AZURE) and type(filesystem).__module__.partition(".")[0] in {"gcsfs", "adlfs"}:
        return Files(filesystem, "pipe")
    return UnknownFiles(filesystem, prefix)
