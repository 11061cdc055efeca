"""Records of AWS CloudTrail, as far as they are about opening keys with AWS KMS.

The names of the fields are those of the AWS KMS developer guide, "Logging AWS KMS API calls with AWS CloudTrail":
Decrypt has its context in ``requestParameters.encryptionContext``, ReEncrypt in ``sourceEncryptionContext``, and what
failed has an ``errorCode``. ``resources`` names the KMS keys, the source of a ReEncrypt first.

GenerateDataKey gives out a key that is new: nothing that was there before is opened by it.
"""

from collections.abc import Mapping
from typing import Any, Final

from vault.errors import InvalidInput
from vault.kms.calls import Call, Told, as_text, moment
from vault.model import KeyScope

__all__ = ["CloudTrail"]

#: What opens a blob, and where its context is.
_OPENING: Final = {"Decrypt": "encryptionContext", "ReEncrypt": "sourceEncryptionContext"}
_WHO: Final = {
    "arn": "userIdentity.arn",
    "principal": "userIdentity.principalId",
    "access_key": "userIdentity.accessKeyId",
    "invoked_by": "userIdentity.invokedBy",
    "address": "sourceIPAddress",
    "user_agent": "userAgent",
    "event": "eventID",
}


class CloudTrail:
    """Reads one record after the other into what is told."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._done: set[str] = set()

    def take(self, record: Mapping[str, Any], where: str) -> None:
        """One record, of whatever service; raises InvalidInput where it is none."""
        if "eventSource" not in record or "eventName" not in record:
            raise InvalidInput(f"{where}: this is no record of CloudTrail")
        time = moment(record.get("eventTime"), where)
        self._told.line(time)
        name = str(record["eventName"])
        if record["eventSource"] != "kms.amazonaws.com" or name not in _OPENING:
            return
        # A call from another account is in the trails of both, under one shared id.
        identifier = str(record.get("sharedEventID") or record.get("eventID") or record.get("requestID"))
        if identifier in self._done:
            return
        self._done.add(identifier)
        parameters = record.get("requestParameters")
        parameters = parameters if isinstance(parameters, Mapping) else {}
        self._told.calls.append(
            Call(
                time=time,
                id=str(record.get("requestID")),
                operation=name,
                key=_key(record, parameters),
                scope=_scope(parameters.get(_OPENING[name])),
                opened=not record.get("errorCode"),
                who=as_text(record, _WHO),
            )
        )


def _key(record: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    resources = record.get("resources")
    first = resources[0] if isinstance(resources, list) and resources else None
    if isinstance(first, Mapping) and first.get("ARN"):
        return str(first["ARN"])
    return str(parameters.get("keyId") or parameters.get("sourceKeyId") or "")


def _scope(context: object) -> KeyScope | None:
    try:
        return KeyScope.of(context) if isinstance(context, Mapping) else None
    except InvalidInput:
        return None
