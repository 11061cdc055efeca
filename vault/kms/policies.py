"""Policies that hold a broker to exactly the data keys that it needs, in the languages of the services.

Each takes KMS key references and encryption contexts, and leaves the epoch open: a rekey changes no policy. Column
groups have random ids that no two datasets share, so a list of compartments beside a list of groups allows no more
than the pairs that exist.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from vault.errors import InvalidInput
from vault.kms.transit import associated_data_prefix

__all__ = [
    "AWS_KEY_POLICY_BYTES",
    "AWS_MANAGED_POLICY_CHARACTERS",
    "AWS_POLICIES_OF_A_ROLE",
    "aws_iam_policies",
    "aws_key_policy",
    "openbao_policy",
]

#: AWS's limits: a key policy in bytes, and a managed IAM policy in characters without white space.
AWS_KEY_POLICY_BYTES: Final = 32_768
AWS_MANAGED_POLICY_CHARACTERS: Final = 6_144
#: How many managed policies AWS attaches to a role, unless the account's quota was raised.
AWS_POLICIES_OF_A_ROLE: Final = 10
_VERSION: Final = "2012-10-17"
_EPOCH: Final = "dsvault:epoch"
_GROUP: Final = "dsvault:group"
_ADMINISTRATION: Final = (
    "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:DisableKey", "kms:EnableKey",
    "kms:GetKeyPolicy", "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:TagResource",
    "kms:UntagResource", "kms:UpdateAlias",
)  # fmt: skip
_WRITING: Final = ("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo")


def openbao_policy(mount: str, keys: Iterable[str], contexts: Iterable[Mapping[str, str]]) -> str:
    """An OpenBao (or HashiCorp Vault) policy in HCL: decrypt under these keys with these contexts, nothing else.

    What is not among ``allowed_parameters`` is refused, ``batch_input`` with it, which would carry contexts that the
    policy does not see.
    """
    prefixes = sorted({associated_data_prefix(context) for context in contexts})
    if not prefixes:
        raise InvalidInput("there is no data key that a broker would need")
    values = ",\n".join(f'      "{prefix}*"' for prefix in prefixes)
    names = sorted({_transit_name(key) for key in keys})
    return "\n".join(
        f'path "{mount}/decrypt/{name}" {{\n'
        '  capabilities = ["update"]\n'
        '  required_parameters = ["ciphertext", "associated_data"]\n'
        "  allowed_parameters = {\n"
        '    "ciphertext" = []\n'
        f'    "associated_data" = [\n{values}\n    ]\n'
        "  }\n"
        "}\n"
        for name in names
    )


def _transit_name(key: str) -> str:
    scheme, _, rest = key.partition(":")
    name, _, _ = rest.rpartition(":")
    if scheme != "transit" or not name:
        raise InvalidInput("--format openbao: the vault's KMS keys are not in a transit engine")
    return name


def _arn(key: str) -> str:
    scheme, _, arn = key.partition(":")
    if scheme != "awskms":
        raise InvalidInput("--format aws-…: the vault's KMS keys are not in AWS KMS")
    return arn


def aws_iam_policies(keys: Iterable[str], contexts: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """IAM policies for the role of a broker, each within the limit of a managed policy."""
    arns = sorted(_arn(key) for key in keys)
    policies: list[dict[str, Any]] = []
    for conditions in _conditions(contexts, AWS_MANAGED_POLICY_CHARACTERS // 2):
        statement = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": arns, "Condition": conditions}
        if policies and _characters(_with(policies[-1], statement)) <= AWS_MANAGED_POLICY_CHARACTERS:
            policies[-1] = _with(policies[-1], statement)
        else:
            policies.append(_with({"Version": _VERSION, "Statement": []}, statement))
    if any(_characters(policy) > AWS_MANAGED_POLICY_CHARACTERS for policy in policies):
        raise InvalidInput("an IAM policy would be longer than the 6,144 characters that AWS allows: too many KMS keys")
    return policies


def aws_key_policy(key: str, contexts: Sequence[Mapping[str, str]], broker: str, owner: str) -> dict[str, Any]:
    """The key policy of a vendor's KMS key: its broker's role unwraps, the owner's writes, the account administers.

    ``broker`` and ``owner`` are the ARNs of roles. The account may administer the key and not use it, so no other
    IAM policy in it opens anything. Raises InvalidInput beyond AWS's limit of 32 KiB.
    """
    arn = _arn(key)
    partition, account = arn.split(":")[1], arn.split(":")[4]
    statements: list[dict[str, Any]] = [
        {
            "Sid": "Administration",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:{partition}:iam::{account}:root"},
            "Action": list(_ADMINISTRATION),
            "Resource": "*",
        },
        {
            "Sid": "Owner",
            "Effect": "Allow",
            "Principal": {"AWS": owner},
            "Action": list(_WRITING),
            "Resource": "*",
        },
    ]
    statements += [
        {
            "Sid": f"Broker{number}",
            "Effect": "Allow",
            "Principal": {"AWS": broker},
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": conditions,
        }
        for number, conditions in enumerate(_conditions(contexts, AWS_KEY_POLICY_BYTES // 2), 1)
    ]
    policy = {"Version": _VERSION, "Statement": statements}
    size = len(json.dumps(policy, separators=(",", ":")).encode())
    if size > AWS_KEY_POLICY_BYTES:
        raise InvalidInput(
            f"the key policy would have {size} bytes and AWS allows {AWS_KEY_POLICY_BYTES}: put columns into groups "
            "when you publish (--group), or use --format aws-iam"
        )
    return policy


def _conditions(contexts: Sequence[Mapping[str, str]], room: int) -> list[dict[str, Any]]:
    """One condition for each place (what a context says beside its group and epoch), split where it has many groups."""
    places: dict[tuple[tuple[str, str], ...], set[str]] = {}
    for context in contexts:
        place = tuple(sorted((name, value) for name, value in context.items() if name not in {_EPOCH, _GROUP}))
        places.setdefault(place, set()).add(context[_GROUP])
    if not places:
        raise InvalidInput("there is no data key that a broker would need")
    step = max(1, room // 40)
    found = []
    for place, groups in sorted(places.items()):
        ordered = sorted(groups)
        for start in range(0, len(ordered), step):
            equal: dict[str, Any] = {f"kms:EncryptionContext:{name}": value for name, value in place}
            equal[f"kms:EncryptionContext:{_GROUP}"] = ordered[start : start + step]
            names = sorted([*(name for name, _ in place), _GROUP, _EPOCH])
            found.append({"StringEquals": equal, "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": names}})
    return found


def _with(policy: Mapping[str, Any], statement: Mapping[str, Any]) -> dict[str, Any]:
    return {**policy, "Statement": [*policy["Statement"], statement]}


def _characters(policy: Mapping[str, Any]) -> int:
    return len(json.dumps(policy, separators=(",", ":")))
