"""The lines of OpenBao's (or HashiCorp Vault's) file audit device, as far as they are about opening keys.

There are two lines for a request, which share its id: one before it is handled and one with the response. A request
opened something unless its response says that it failed; one whose response is missing counts as done. Each item of a
batch counts; where only some of them failed the response shows no more than a status, and all of them count.

The device puts an HMAC in the place of most values. The context, in ``associated_data``, shows where the mount has
``audit_non_hmac_request_keys=associated_data``, in batches too.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from vault.errors import InvalidInput
from vault.kms.calls import Call, Told, as_text, moment
from vault.kms.transit import read_associated_data
from vault.model import KeyScope

__all__ = ["AuditFile"]

_HASHED: Final = "hmac-sha256:"
#: What opens a blob. dsvault asks for the first alone.
_OPENING: Final = re.compile(r".+/(?P<operation>decrypt|rewrap)/(?P<key>[^/]+)")
#: What gives out a KMS key: dsvault never asks for it, and its keys do not allow it unless that was changed.
_TAKING: Final = re.compile(
    r".+/(?:(?P<operation>export|byok-export|backup)(?:/[^/]+)?/(?P<key>dsvault-[0-9a-f-]+)(?:/[^/]+)?)"
)
_WHO: Final = {
    "token": "auth.accessor",
    "token_name": "auth.display_name",
    "entity": "auth.entity_id",
    "role": "auth.metadata.role_name",
    "policies": "auth.policies",
    "address": "request.remote_address",
    "namespace": "request.namespace.path",
}


class AuditFile:
    """Reads one line after the other into what is told."""

    def __init__(self, told: Told) -> None:
        self._told = told
        #: Requests whose response has not come yet, by id.
        self._waiting: dict[str, list[Call]] = {}
        self._done: set[str] = set()

    def take(self, line: Mapping[str, Any], where: str) -> None:
        """One line; raises InvalidInput where it is not one of an audit device."""
        request = line.get("request")
        if line.get("type") not in {"request", "response"} or not isinstance(request, Mapping):
            raise InvalidInput(f"{where}: this is no line of an OpenBao audit device")
        self._told.line(moment(line.get("time"), where))
        identifier = str(request.get("id"))
        operation, key = _what(str(request.get("path", "")))
        if operation is None or identifier in self._done:
            return
        calls = self._waiting.get(identifier) or _calls(line, request, (identifier, operation, key), where)
        if line["type"] == "request" and not line.get("error"):
            self._waiting[identifier] = calls
            return
        self._waiting.pop(identifier, None)
        self._done.add(identifier)
        self._told.calls += self._outcome(calls, line)

    def end(self) -> None:
        """No more lines come: what has no response may have been done all the same."""
        for calls in self._waiting.values():
            self._told.calls += calls
        self._waiting.clear()

    def _outcome(self, calls: list[Call], line: Mapping[str, Any]) -> list[Call]:
        response = line.get("response")
        data = response.get("data") if isinstance(response, Mapping) else None
        data = data if isinstance(data, Mapping) else {}
        plaintext = data.get("plaintext")
        if isinstance(plaintext, str) and plaintext and not plaintext.startswith(_HASHED):
            self._told.raw = True
        results = data.get("batch_results")
        if isinstance(results, list) and len(results) == len(calls):
            failed = [isinstance(each, Mapping) and bool(each.get("error")) for each in results]
            return [replace(call, opened=not bad) for call, bad in zip(calls, failed, strict=True)]
        refused = bool(line.get("error")) and "plaintext" not in data
        return [replace(call, opened=not refused) for call in calls]


def _calls(line: Mapping[str, Any], request: Mapping[str, Any], names: tuple[str, str, str], where: str) -> list[Call]:
    identifier, operation, key = names
    data = request.get("data")
    data = data if isinstance(data, Mapping) else {}
    batch, taking = data.get("batch_input"), operation not in {"decrypt", "rewrap"}
    if isinstance(batch, str):
        raise InvalidInput(
            f"{where}: the audit device hides a batch as a whole, so nobody can tell how many keys it opened"
        )
    time, who = moment(line["time"], where), as_text(line, _WHO)
    found = []
    for item in batch if isinstance(batch, list) and not taking else [data]:
        context = item.get("associated_data") if isinstance(item, Mapping) else None
        hidden = context if isinstance(context, str) and context.startswith(_HASHED) else None
        scope = _scope(context) if hidden is None else None
        found.append(Call(time, identifier, operation, key, scope, True, who, hidden, taking))
    return found


def _what(path: str) -> tuple[str | None, str]:
    """What a request at this path does to which key: the mount may have any name, with slashes in it too."""
    clean = "/".join(step for step in path.split("/") if step)
    if match := _OPENING.fullmatch(clean):
        return match["operation"], match["key"]
    if match := _TAKING.fullmatch(clean):
        return match["operation"], match["key"]
    return None, ""


def _scope(context: object) -> KeyScope | None:
    # The engine takes base64 with line breaks in it.
    text = context.replace("\r", "").replace("\n", "") if isinstance(context, str) else ""
    try:
        found = read_associated_data(base64.b64decode(text, validate=True))
        return KeyScope.of(found) if found is not None else None
    except (binascii.Error, ValueError, InvalidInput):
        return None
