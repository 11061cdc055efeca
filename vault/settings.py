"""Every setting by its environment variable: what may stand in ``config.toml``, what ``serve`` takes, and a process's.

An option wins over its variable, and a variable over the file. What is set to nothing is refused: a template that lost
a value would otherwise have a broker serve every vendor. So is a variable that begins like ours and is none of these: a
misspelt one would leave what it was to guard unguarded. No sentence here holds a value, since some are secrets.
Listed for people in ``docs/reference/settings.md``.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from vault.errors import InvalidInput

__all__ = ["SETTINGS", "Form", "Setting", "from_environment", "nearest", "put_over", "refuse_unknown", "renamed"]

_PREFIX: Final = "DSVAULT_"
_BOOLEANS: Final = {"true": True, "false": False}


class Form(Enum):
    """What the text of a variable stands for in ``config.toml``."""

    TEXT = "text"
    NUMBER = "a number"
    BOOLEAN = "true or false"


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable; ``key`` is its place in ``config.toml``, and ``option`` the one that wins over it.

    ``of`` is the command that the option is of.
    """

    variable: str
    key: str | None = None
    option: str | None = None
    of: str = ""
    form: Form = Form.TEXT
    may_be_empty: bool = False


def _file(name: str, key: str, option: str | None = None, form: Form = Form.TEXT) -> Setting:
    return Setting(_PREFIX + name, key, option, "init" if option else "", form)


def _serve(*options: str) -> tuple[Setting, ...]:
    return tuple(
        Setting(f"{_PREFIX}SERVE_{each.upper().replace('-', '_')}", option=f"--{each}", of="serve") for each in options
    )


def _process(*names: str) -> tuple[Setting, ...]:
    return tuple(Setting(_PREFIX + name, may_be_empty=True) for name in names)


#: All that there are, beside ``DSVAULT`` itself, which names the vault's directory.
SETTINGS: Final[tuple[Setting, ...]] = (
    _file("VAULT_ID", "vault"),
    _file("STORE", "store", "--store"),
    _file("CATALOG", "catalog", "--catalog"),
    _file("KMS", "kms", "--kms"),
    _file("ENDPOINT", "endpoint", "--endpoint"),
    _file("ROOT_FINGERPRINT", "root_fingerprint"),
    _file("OWNER_ID", "owner"),
    _file("WITNESS_URL", "witness.url", "--witness"),
    _file("WITNESS_REQUIRED", "witness.required", "--witness-required", Form.BOOLEAN),
    _file("DATA_KEYS_AGE", "data_keys.age", form=Form.NUMBER),
    _file("DATA_KEYS_KEYS", "data_keys.keys", form=Form.NUMBER),
    _file("DATA_KEYS_USES", "data_keys.uses", form=Form.NUMBER),
    _file("GC_GRACE", "gc.grace"),
    _file("SHARING_LIFE", "sharing.life"),
    _file("SHARING_VENDOR_BYTES", "sharing.vendor_bytes", form=Form.NUMBER),
    _file("SHARING_TOTAL_BYTES", "sharing.total_bytes", form=Form.NUMBER),
    _file("SUBMISSIONS_MOST_BYTES", "submissions.most_bytes", form=Form.NUMBER),
    _file("SUBMISSIONS_WAITING", "submissions.waiting", form=Form.NUMBER),
    _file("SUBMISSIONS_WAITING_BYTES", "submissions.waiting_bytes", form=Form.NUMBER),
    *_serve(
        "host", "port", "vendors", "workers", "key-age", "endpoint", "metrics-to", "log-level", "tls-cert", "tls-key",
        "tls-client-ca", "grace", "request-timeout", "send-timeout", "connections",
    ),
    Setting(_PREFIX + "PROFILE"),
    *_process("PASSPHRASE", "NEW_PASSPHRASE", "BACKUP_PASSPHRASE", "PKCS11_PIN", "PKCS11_OWNER_PIN", "DEBUG"),
)  # fmt: skip
_KNOWN: Final = {each.variable: each for each in SETTINGS}


def refuse_unknown(environment: Mapping[str, str] = os.environ) -> None:
    """Raise InvalidInput for a variable that begins like a setting and is none, or for a setting without a value."""
    for name in sorted(environment):
        if not name.startswith(_PREFIX):
            continue
        setting = _KNOWN.get(name)
        if setting is None:
            raise InvalidInput(f"{name[:80]}: the environment has it and there is no such setting{_meant(name)}")
        if not environment[name].strip() and not setting.may_be_empty:
            raise InvalidInput(f"{name}: the environment has it without a value; give one, or take it away")


def _meant(name: str) -> str:
    found = nearest(name, _KNOWN)
    return f"; {found} is the nearest that there is" if found else ""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that somebody may have meant, if any is near."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(names), n=1, cutoff=0.6)), None)


def from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, tuple[str, Any]]:
    """What the environment says of ``config.toml``: by key the variable, and the value as the file would have it.

    Raises InvalidInput, naming the variable.
    """
    refuse_unknown(environment)
    found = {}
    for setting in SETTINGS:
        if setting.key is not None and setting.variable in environment:
            found[setting.key] = (setting.variable, _value(setting, environment[setting.variable]))
    return found


def _value(setting: Setting, text: str) -> Any:
    if setting.form is Form.TEXT:
        return text
    try:
        return _BOOLEANS[text] if setting.form is Form.BOOLEAN else _number(text)
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"{setting.variable}: give {setting.form.value}") from error


def _number(text: str) -> int | float:
    return int(text) if text.isascii() and text.isdecimal() else float(text)


def put_over(document: Mapping[str, Any], found: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """The document of a file with the environment's values in their places."""
    merged: dict[str, Any] = dict(document)
    for key, (_, value) in found.items():
        table, _, name = key.rpartition(".")
        if not table:
            merged[name] = value
        elif isinstance(merged.get(table, {}), dict):
            merged[table] = {**merged.get(table, {}), name: value}
    return merged


def renamed(sentence: str, names: Mapping[str, str]) -> str:
    """A sentence about options, with the variable that a value came from in the place of each that was not given."""
    for option, variable in names.items():
        sentence = re.sub(rf"(?<![\w-]){re.escape(option)}(?![\w-])", variable, sentence)
    return sentence
