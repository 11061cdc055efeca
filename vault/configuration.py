"""What a vault's configuration says: ``config.toml`` of ``owner/`` or ``broker/``, under the environment's settings.

Without a file the environment is all of it: a broker then needs no more than where the store, the catalog and the KMS
are, and the fingerprint of the root document.
"""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from vault.encoding import duration
from vault.errors import InvalidInput, NotFound
from vault.keyring import CacheLimits
from vault.model import DEFAULT_GRACE, FORMAT
from vault.settings import SETTINGS, from_environment, nearest, put_over, renamed
from vault.spool import SpoolLimits
from vault.submission import Quarantine

__all__ = ["DEFAULT_ENDPOINT", "Configuration", "WitnessPlace", "named"]

DEFAULT_ENDPOINT: Final = "http://127.0.0.1:8750"
_KEYS: Final = [each.key for each in SETTINGS if each.key is not None]
_TABLES: Final = {key.partition(".")[0] for key in _KEYS if "." in key}
_Found = Mapping[str, tuple[str, Any]]
_NOWHERE: Final = {"store": "", "catalog": "", "kms": "", "endpoint": DEFAULT_ENDPOINT}


@dataclass(frozen=True, slots=True)
class WitnessPlace:
    """Where checkpoints of the log go beside the store, and whether nothing is served without it."""

    url: str
    required: bool


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of one process; ``owner`` is the owner's holder id.

    ``vault`` is empty where nothing says it, and is then what the pinned root document says. ``sources`` tells by key
    which variable a value came from.
    """

    vault: str
    store: str
    catalog: str = field(repr=False)  # it may hold a password
    kms: str
    endpoint: str
    root_fingerprint: str
    owner: str | None
    data_keys: CacheLimits = field(default_factory=CacheLimits)
    grace: timedelta = DEFAULT_GRACE
    sharing: SpoolLimits = field(default_factory=SpoolLimits)
    witness: "WitnessPlace | None" = None
    sources: Mapping[str, str] = field(default_factory=dict)
    submissions: Quarantine = field(default_factory=Quarantine)

    def text(self) -> str:
        """The file's TOML: all but what the environment says, which may be a secret and is left to it."""
        values = {name: getattr(self, name) for name in ("store", "catalog", "kms", "endpoint")}
        lines = [f'format = "{FORMAT[0]}.{FORMAT[1]}"', f'vault = "{self.vault}"']
        lines += [f"{name} = {_toml(value)}" for name, value in values.items() if name not in self.sources]
        lines.append(f'root_fingerprint = "{self.root_fingerprint}"')
        if self.owner is not None:
            lines.append(f'owner = "{self.owner}"')
        if self.witness is not None and "witness.url" not in self.sources:
            lines += ["", "[witness]", f"url = {_toml(self.witness.url)}"]
            if "witness.required" not in self.sources:
                lines += [f"required = {str(self.witness.required).lower()}"]
        held = {each.name: getattr(self.data_keys, each.name) for each in fields(CacheLimits)}
        written = [f"{name} = {value}" for name, value in held.items() if f"data_keys.{name}" not in self.sources]
        if self.data_keys != CacheLimits() and written:
            lines += ["", "[data_keys]", *written]
        if self.grace != DEFAULT_GRACE and "gc.grace" not in self.sources:
            lines += ["", "[gc]", f'grace = "{round(self.grace.total_seconds())}s"']
        lines += self._sharing_text()
        kept = {each.name: getattr(self.submissions, each.name) for each in fields(Quarantine)}
        written = [f"{name} = {value}" for name, value in kept.items() if f"submissions.{name}" not in self.sources]
        if self.submissions != Quarantine() and written:
            lines += ["", "[submissions]", *written]
        return "\n".join(lines) + "\n"

    def _sharing_text(self) -> list[str]:
        usual = SpoolLimits()
        written = {
            "life": f'"{round(self.sharing.life.total_seconds())}s"',
            "vendor_bytes": str(self.sharing.vendor_bytes),
            "total_bytes": str(self.sharing.total_bytes),
        }
        lines = [
            f"{name} = {value}"
            for name, value in written.items()
            if getattr(self.sharing, name) != getattr(usual, name) and f"sharing.{name}" not in self.sources
        ]
        return ["", "[sharing]", *lines] if lines else []

    @classmethod
    def read(cls, path: Path) -> "Configuration":
        """The settings of a process whose file this would be; raises NotFound or InvalidInput."""
        found = from_environment()
        return cls._of(path, put_over(_document(path, found), found), found)

    @classmethod
    def parse(cls, text: str, path: Path) -> "Configuration":
        """What a file's text says by itself, whatever the environment says; what stands nowhere is empty.

        ``path`` is for what is said of it. Raises InvalidInput.
        """
        return cls._of(path, {**_NOWHERE, **_parsed(path, text)}, {})

    @classmethod
    def _of(cls, path: Path, document: Mapping[str, Any], found: _Found) -> "Configuration":
        label = _Labels(path, found)
        try:
            names = ("vault", "store", "catalog", "kms", "endpoint", "root_fingerprint")
            values = [_text(label, name, document[name]) for name in names]
            owner = _text(label, "owner", document["owner"]) if "owner" in document else None
        except KeyError as error:
            key = error.args[0]
            raise InvalidInput(f"{path}: the setting {key!r} is missing, and {_variable(key)} is not set") from error
        vault, store, catalog, kms, endpoint, fingerprint = values
        limits = _limits(label.of("data_keys"), document.get("data_keys", {}))
        grace = _grace(label.of("gc"), document.get("gc", {}))
        sharing = _sharing(label.of("sharing"), document.get("sharing", {}))
        witness = _witness(label.of("witness"), document.get("witness"))
        quarantine = _quarantine(label.of("submissions"), document.get("submissions", {}))
        sources = {key: variable for key, (variable, _) in found.items()}
        return cls(
            vault,
            store,
            catalog,
            kms,
            endpoint,
            fingerprint,
            owner,
            limits,
            grace,
            sharing,
            witness,
            sources,
            quarantine,
        )


@contextmanager
def named(configuration: Configuration) -> Iterator[None]:
    """Let InvalidInput about an option of ``init`` name the variable instead, where the value came from one."""
    here = [each for each in SETTINGS if each.option is not None and each.key in configuration.sources]
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(renamed(str(error), {each.option or "": each.variable for each in here})) from error


@dataclass(frozen=True, slots=True)
class _Labels:
    """Where a value is from, in words."""

    path: Path
    found: _Found

    def of(self, table: str) -> str:
        """Of a table: the variables that speak of it, else the table in the file."""
        variables = [variable for key, (variable, _) in self.found.items() if key.startswith(table + ".")]
        return ", ".join(variables) or f"{self.path}: [{table}]"


def _variable(key: str) -> str:
    return next(each.variable for each in SETTINGS if each.key == key)


def _document(path: Path, found: _Found) -> dict[str, Any]:
    """The file's document; without a file that of the environment alone, if it says where a vault is."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if not found.keys() & {"store", "catalog", "kms", "root_fingerprint"}:
            raise NotFound(f"{path}: there is no vault here") from error
        return {"vault": "", "endpoint": DEFAULT_ENDPOINT}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: the configuration cannot be read") from error
    return _parsed(path, text)


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{path}: the configuration cannot be read") from error
    if "format" not in document:
        raise InvalidInput(f"{path}: the setting 'format' is missing")
    if str(document["format"]).split(".")[0] != str(FORMAT[0]):
        raise InvalidInput(f"{path}: the vault has a format that this release does not know")
    known = {"format", *(key for key in _KEYS if "." not in key), *_TABLES}
    for name in document.keys() - known:
        meant = nearest(name, known)
        said = f"; {meant!r} is the nearest that there is" if meant else ""
        raise InvalidInput(f"{path}: there is no setting {name[:40]!r}{said}")
    return document


def _text(label: _Labels, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{label.path}: the setting {key!r} takes a text in quotes")
    return value


def _witness(where: str, document: Any) -> WitnessPlace | None:
    """The table ``[witness]``: a ``url`` that checkpoints of the log go to, and whether it is ``required``."""
    if document is None:
        return None
    if not isinstance(document, dict) or not document.keys() <= {"url", "required"}:
        raise InvalidInput(f"{where} takes url and required")
    url, required = document.get("url"), document.get("required", False)
    if url is None and not where.endswith("]"):
        raise InvalidInput(f"{where}: there is no witness; set {_variable('witness.url')}")
    if not isinstance(url, str) or not url or not isinstance(required, bool):
        raise InvalidInput(f"{where} takes a url in quotes, and required = true or false")
    return WitnessPlace(url, required)


def _grace(where: str, document: Any) -> timedelta:
    """The table ``[gc]``: its ``grace`` is a duration such as "1h"."""
    if not isinstance(document, dict) or not document.keys() <= {"grace"}:
        raise InvalidInput(f"{where} takes grace")
    text = document.get("grace")
    if text is None:
        return DEFAULT_GRACE
    if not isinstance(text, str):
        raise InvalidInput(f'{where} grace is a duration in quotes, such as "1h"')
    return duration(text, f"{where} grace" if where.endswith("]") else where)


def _sharing(where: str, document: Any) -> SpoolLimits:
    """The table ``[sharing]``: for how long a shared file's address is good (``life``), and caps of what is spooled."""
    names = [each.name for each in fields(SpoolLimits)]
    if not isinstance(document, dict) or not document.keys() <= set(names):
        raise InvalidInput(f"{where} takes {', '.join(sorted(names))}")
    given = dict(document)
    if "life" in given:
        if not isinstance(given["life"], str):
            raise InvalidInput(f'{where} life is a duration in quotes, such as "1h"')
        given["life"] = duration(given["life"], f"{where} life" if where.endswith("]") else where)
    if any(type(given[name]) is not int for name in given.keys() - {"life"}):
        raise InvalidInput(f"{where} takes whole numbers of bytes")
    try:
        return SpoolLimits(**given)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error


def _limits(where: str, document: Any) -> CacheLimits:
    """The table ``[data_keys]``: how long (``age``, in seconds), how many (``keys``) and for how many ``uses``."""
    names = {each.name for each in fields(CacheLimits)}
    if not isinstance(document, dict) or not document.keys() <= names:
        raise InvalidInput(f"{where} takes {', '.join(sorted(names))}")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in document.values()):
        raise InvalidInput(f"{where} takes numbers")
    try:
        return CacheLimits(**document)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error


def _quarantine(where: str, document: Any) -> Quarantine:
    """The table ``[submissions]``: bytes of one (``most_bytes``), and what of a vendor's may wait for the owner."""
    names = {each.name for each in fields(Quarantine)}
    if not isinstance(document, dict) or not document.keys() <= names:
        raise InvalidInput(f"{where} takes {', '.join(sorted(names))}")
    try:
        return Quarantine(**document)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error


def _toml(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if any(ord(character) < 32 for character in text):
        raise InvalidInput("a setting holds a control character")
    return f'"{escaped}"'
