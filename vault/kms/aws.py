"""A KMS in AWS: one symmetric KMS key for each holder, and the encryption context held by the service.

A reference is ``awskms:`` and the key's ARN. A key carries the alias ``alias/dsvault-LABEL``, which moves to its
successor, and tags. Retries with jittered backoff are botocore's ("standard" mode). AWS KMS logs the encryption
context in plaintext, so it holds ids only. Destroying schedules the deletion (7 days, the least that AWS allows): from
then on the key can be used by nobody, and the lab's administrators could still cancel it until the time is over.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any, Final, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from vault.errors import InvalidInput, KeyUnavailable, KmsError
from vault.kms.protocol import DataKey, KeyState

__all__ = ["DELETION_DAYS", "AwsKms"]

#: How long AWS keeps a key that was scheduled for deletion; the least that it allows.
DELETION_DAYS: Final = 7
_REFERENCE: Final = re.compile(
    r"awskms:(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))"
)
_MAX_PLAINTEXT: Final = 4096
_STATES: Final = {
    "Enabled": KeyState.ENABLED,
    "Disabled": KeyState.DISABLED,
    "PendingDeletion": KeyState.DESTROYED,
    "PendingReplicaDeletion": KeyState.DESTROYED,
}
#: What AWS answers when the key is not to be used, or not by this identity.
_UNUSABLE: Final = {
    "AccessDeniedException": "AWS KMS does not let this process's identity do that (access denied)",
    "DisabledException": "the KMS key is disabled",
    "KMSInvalidStateException": "the KMS key is disabled or pending deletion",
    "NotFoundException": "the KMS key is not there",
    "InvalidArnException": "the KMS key is not there",
    "KeyUnavailableException": "the KMS key is not available",
}
_WRONG: Final = {"InvalidCiphertextException", "IncorrectKeyException"}
#: Writes what was sent and answered at level DEBUG, plaintext keys among it.
_TALKATIVE: Final = "botocore"


@final
class AwsKms:
    """Keys of one account and Region; see `vault.kms.Kms` for what each method promises.

    Credentials are found as boto3 finds them: a profile with a ``role_arn`` gives each vendor's broker an identity
    of its own. Raises InvalidInput where the package boto3 is missing or the Region is not known.
    """

    def __init__(self, region: str | None, *, endpoint: str | None = None, timeout: float = 5.0) -> None:
        self._client = _connect(region, endpoint, timeout)

    @property
    def destruction(self) -> str:
        """What `destroy_key` leaves."""
        return (
            "AWS lets nobody use the key from now on and deletes it in 7 days; until then an administra"
            "tor of the AWS account could cancel that, afterwards nobody can"
        )

    def create_key(self, label: str, *, owner: bool = False) -> str:
        """Make a symmetric key with the alias ``alias/dsvault-LABEL`` and tags."""
        tags = [
            {"TagKey": "dsvault:holder", "TagValue": label},
            {"TagKey": "dsvault:role", "TagValue": "owner" if owner else "vendor"},
        ]
        made = self._call("create_key", Description=f"dsvault holder {label}", KeySpec="SYMMETRIC_DEFAULT", Tags=tags)
        arn = str(made["KeyMetadata"]["Arn"])
        self._name(label, arn)
        return f"awskms:{arn}"

    def rotate_key(self, key: str, label: str) -> str:
        """Make another key and move the alias to it. AWS's own rotation keeps the old material, and is not used."""
        tags = self._call("list_resource_tags", KeyId=self._arn(key)).get("Tags", [])
        owner = {"TagKey": "dsvault:role", "TagValue": "owner"} in tags
        return self.create_key(label, owner=owner)

    def generate_data_key(self, key: str, context: Mapping[str, str]) -> DataKey:
        """A fresh data key from the service."""
        made = self._call(
            "generate_data_key", KeyId=self._arn(key), KeySpec="AES_256", EncryptionContext=_context(context)
        )
        return DataKey(made["Plaintext"], made["CiphertextBlob"])

    def wrap(self, key: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Wrap with Encrypt."""
        arn = self._arn(key)
        if not 1 <= len(plaintext) <= _MAX_PLAINTEXT:
            raise KmsError("a KMS key wraps 1 to 4,096 bytes")
        done = self._call("encrypt", KeyId=arn, Plaintext=plaintext, EncryptionContext=_context(context))
        return bytes(done["CiphertextBlob"])

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Open with Decrypt; the key is named, so that a blob of another key is refused."""
        arn = self._arn(key)
        if not wrapped:
            raise KmsError("a wrapped key has a format that this release does not know")
        done = self._call("decrypt", KeyId=arn, CiphertextBlob=wrapped, EncryptionContext=_context(context))
        return bytes(done["Plaintext"])

    def rewrap(self, source: str, wrapped: bytes, context: Mapping[str, str], target: str) -> bytes:
        """Wrap anew with ReEncrypt: the plaintext stays inside the service."""
        source_arn, target_arn = self._arn(source), self._arn(target)
        if not wrapped:
            raise KmsError("a wrapped key has a format that this release does not know")
        done = self._call(
            "re_encrypt",
            SourceKeyId=source_arn,
            CiphertextBlob=wrapped,
            SourceEncryptionContext=_context(context),
            DestinationKeyId=target_arn,
            DestinationEncryptionContext=_context(context),
        )
        return bytes(done["CiphertextBlob"])

    def disable_key(self, key: str) -> None:
        """DisableKey; it takes effect within seconds everywhere in AWS, most often at once."""
        self._refuse_destroyed(key)
        self._call("disable_key", KeyId=self._id(key))

    def enable_key(self, key: str) -> None:
        """EnableKey."""
        self._refuse_destroyed(key)
        self._call("enable_key", KeyId=self._id(key))

    def destroy_key(self, key: str) -> None:
        """ScheduleKeyDeletion with the least waiting period."""
        if self._key_state(key) is not KeyState.DESTROYED:
            self._call("schedule_key_deletion", KeyId=self._id(key), PendingWindowInDays=DELETION_DAYS)

    def state(self, key: str) -> KeyState:
        """What DescribeKey says."""
        try:
            return self._key_state(key)
        except KeyUnavailable:
            return KeyState.ABSENT

    def reach(self) -> None:
        """Ask for a key that there is not: an answer to a signed request is enough, also that it may not be asked."""
        try:
            self._call("describe_key", KeyId="alias/dsvault-reach")
        except KeyUnavailable:
            return

    def create_signing_key(self, label: str) -> str:
        """Make an Ed25519 key (key spec ECC_NIST_EDWARDS25519)."""
        made = self._call(
            "create_key",
            Description=f"dsvault signer {label}",
            KeySpec="ECC_NIST_EDWARDS25519",
            KeyUsage="SIGN_VERIFY",
            Tags=[{"TagKey": "dsvault:signer", "TagValue": label}],
        )
        return f"awskms:{made['KeyMetadata']['Arn']}"

    def public_key(self, key: str) -> bytes:
        """The public half, out of the SubjectPublicKeyInfo (RFC 8410) that AWS gives."""
        found = self._call("get_public_key", KeyId=self._arn(key))["PublicKey"]
        try:
            public = load_der_public_key(found)
        except ValueError as error:
            raise KmsError("AWS KMS gave a public key in a form that this release does not know") from error
        if not isinstance(public, Ed25519PublicKey):
            raise KeyUnavailable("the KMS key is not an Ed25519 signing key")
        return public.public_bytes_raw()

    def sign(self, key: str, message: bytes) -> bytes:
        """Sign with Sign over the message itself (pure Ed25519, which AWS names ED25519_SHA_512)."""
        done = self._call(
            "sign", KeyId=self._arn(key), Message=message, MessageType="RAW", SigningAlgorithm="ED25519_SHA_512"
        )
        return bytes(done["Signature"])

    def _key_state(self, key: str) -> KeyState:
        found = self._call("describe_key", KeyId=self._arn(key))["KeyMetadata"]["KeyState"]
        if found not in _STATES:
            raise KmsError("the KMS key is in a state that this release does not know")
        return _STATES[found]

    def _refuse_destroyed(self, key: str) -> None:
        if self._key_state(key) is KeyState.DESTROYED:
            raise KeyUnavailable("the KMS key is pending deletion")

    def _name(self, label: str, arn: str) -> None:
        """Point the holder's alias at its newest key; it is for people, and nothing of dsvault looks a key up by it."""
        alias = f"alias/dsvault-{label}"
        try:
            self._call("create_alias", AliasName=alias, TargetKeyId=arn)
        except _Exists:
            self._call("update_alias", AliasName=alias, TargetKeyId=arn)

    def _arn(self, key: str) -> str:
        match = _REFERENCE.fullmatch(key)
        if match is None:
            raise KeyUnavailable("the KMS key is not one of this KMS's")
        return match[1]

    def _id(self, key: str) -> str:
        """The key's id alone, for what an account can do to its own keys only."""
        return self._arn(key).rpartition("/")[2]

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """One call. What fails is raised anew without its cause, which holds what was sent."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            found: dict[str, Any] = getattr(self._client, operation)(**arguments)
        except ClientError as error:
            raise _refusal(str(error.response.get("Error", {}).get("Code", ""))) from None
        except BotoCoreError as error:
            raise KmsError(f"AWS KMS could not be reached or did not answer ({type(error).__name__})") from None
        return found

    def __repr__(self) -> str:
        return "AwsKms()"


class _Exists(KmsError):
    """There is an alias of that name."""


def _refusal(code: str) -> KmsError:
    if code in _UNUSABLE:
        return KeyUnavailable(_UNUSABLE[code])
    if code in _WRONG:
        return KmsError("a wrapped key does not open under this KMS key and context")
    if code == "AlreadyExistsException":
        return _Exists("there is an alias of that name")
    return KmsError(f"AWS KMS refused or failed ({code[:60] or 'no reason given'})")


def _context(context: Mapping[str, str]) -> dict[str, str]:
    try:
        "".join((*context.keys(), *context.values())).encode()
    except UnicodeEncodeError as error:
        raise KmsError("a context holds what is not a Unicode character") from error
    return dict(context)


def _connect(region: str | None, endpoint: str | None, timeout: float) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise InvalidInput("--kms: awskms:// needs the package boto3: install dsvault[awskms]") from error
    logger = logging.getLogger(_TALKATIVE)
    # What it inherits counts where it has no level of its own: raising that to INFO would have it say more, not less.
    logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))
    config = Config(
        connect_timeout=timeout,
        read_timeout=timeout,
        retries={"mode": "standard", "total_max_attempts": 5},
        max_pool_connections=32,
    )
    try:
        return boto3.Session(region_name=region).client("kms", endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise InvalidInput(f"--kms: awskms:// cannot be used ({type(error).__name__}); say ?region=…") from None
