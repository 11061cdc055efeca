"""Reading entries as JSON, of which many are alike.

Reads that one credential begins of the same columns and shards say the same, but for their time and a number that is
theirs alone. Such an entry is read once with a random text in each of these two places. Where that comes out as the
value of its name, the place is that of the value and nothing else: the entry whose text around the two places is the
same, to the byte, says the same with its own two values, as long as they are plain within quotation marks.
"""

import json
from typing import Any, Final

from vault.audit import Kind
from vault.encoding import json_bytes, new_id

__all__ = ["WRONG", "Decoded", "Decoder"]

#: Kind, time, other fields, and the number of those that are alike.
Decoded = tuple[str, str, dict[str, Any], int | None]

#: What is raised for what is no entry.
WRONG: Final = (ValueError, RecursionError, KeyError, AttributeError, TypeError)
_DECODER: Final = json.JSONDecoder()
_BEGUN: Final = json_bytes({"kind": Kind.READ_BEGUN})[1:-1]
_NONCE: Final = b'"nonce":"'
_TIME: Final = b'"time":"'
#: Texts that are kept at a time, of some hundred bytes each.
_MOST: Final = 4096


class Decoder:
    """Reads entries one after the other."""

    def __init__(self) -> None:
        self._nonce, self._time = new_id(), new_id()
        self._known: dict[tuple[bytes, ...], tuple[int, dict[str, Any]]] = {}
        self._last = 0

    def decode(self, plain: bytes) -> Decoded:
        """What an entry says; raises one of `WRONG` for what is none."""
        return (self._begun(plain) if _BEGUN in plain else None) or (*_whole(plain), None)

    def _begun(self, plain: bytes) -> Decoded | None:
        """The same for a read that has begun; None where it is not one of those that are alike."""
        at = plain.rfind(_TIME) + len(_TIME)
        end = plain.find(b'"', at)
        if at < len(_TIME) or end < 0:
            return None
        time, nonce = plain[at:end].decode(), None
        first = plain.find(_NONCE, 0, at) + len(_NONCE)
        if first < len(_NONCE):
            around: tuple[bytes, ...] = plain[:at], plain[end:]
        else:
            last = plain.find(b'"', first)
            # The time's own quotation mark is behind it at the latest, so that there is one.
            nonce = plain[first:last].decode()
            around = plain[:first], plain[last:at], plain[end:]
        if not _is_plain(time) or (nonce is not None and not _is_plain(nonce)):
            return None
        number, fields = self._known.get(around) or self._learn(around)
        if not number:
            return None
        return Kind.READ_BEGUN.value, time, fields if nonce is None else {**fields, "nonce": nonce}, number

    def _learn(self, around: tuple[bytes, ...]) -> tuple[int, dict[str, Any]]:
        """What those say that have this text around their values, and their number; 0 where that cannot be told."""
        between = (self._time,) if len(around) == 2 else (self._nonce, self._time)
        plain = around[0] + b"".join(value.encode() + text for value, text in zip(between, around[1:], strict=True))
        try:
            kind, time, fields = _whole(plain)
        except WRONG:
            return 0, {}
        if kind != Kind.READ_BEGUN or time != self._time or (len(around) == 3 and fields.get("nonce") != self._nonce):
            return 0, {}
        if len(self._known) == _MOST:
            self._known.clear()
        self._last += 1
        found = self._known[around] = self._last, fields
        return found


def _is_plain(text: str) -> bool:
    """Whether a text stands for itself within quotation marks."""
    return text.isprintable() and "\\" not in text and '"' not in text


def _whole(plain: bytes) -> tuple[str, str, dict[str, Any]]:
    # Canonical JSON has no white space around it: what `json.loads` does beside this is a third of its time.
    text = plain.decode()
    document, end = _DECODER.raw_decode(text)
    kind, time = document.pop("kind"), document.pop("time")
    if end != len(text):
        raise ValueError("there is something behind it")
    return kind, time, document
