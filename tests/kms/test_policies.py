"""Printed policies allow exactly the contexts that they were made for, and stay within AWS's limits."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest

from vault.encoding import new_id
from vault.errors import InvalidInput
from vault.kms.policies import (
    AWS_KEY_POLICY_BYTES,
    AWS_MANAGED_POLICY_CHARACTERS,
    aws_iam_policies,
    aws_key_policy,
    openbao_policy,
)
from vault.model import KeyScope

ARN = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
BROKER = "arn:aws:iam::123456789012:role/broker-acme"
OWNER = "arn:aws:iam::123456789012:role/lab"


def _allows(statement: Mapping[str, Any], action: str, key: str, context: Mapping[str, str]) -> bool:
    """Whether a statement allows a request, by IAM's rules for the operators that are used."""
    actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
    condition = statement.get("Condition", {})
    for name, wanted in condition.get("StringEquals", {}).items():
        found = context.get(name.removeprefix("kms:EncryptionContext:"))
        if found is None or found not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    allowed = condition.get("ForAllValues:StringEquals", {}).get("kms:EncryptionContextKeys")
    if allowed is not None and not set(context) <= set(allowed):
        return False
    return action in actions and (key in resources or resources == ["*"])


def _scopes(vault: str, places: list[str], groups: list[str]) -> list[KeyScope]:
    return [
        KeyScope(vault, place, group, epoch) for place, group in zip(places, groups, strict=True) for epoch in (1, 7)
    ]


def test_iam_allows_the_columns_and_nothing_else() -> None:
    """Of all pairs of compartments and groups that exist the policies open the granted ones, for every epoch."""
    vault, vendor, one, two = new_id(), new_id(), new_id(), new_id()
    groups = [new_id() for _ in range(8)]
    granted = _scopes(vault, [vendor, one, one, two, two], ["metadata", "manifest", groups[0], "manifest", groups[4]])
    policies = aws_iam_policies([f"awskms:{ARN}"], [scope.context() for scope in granted])
    statements = [statement for policy in policies for statement in policy["Statement"]]
    # What exists: the first four groups are one dataset's, the others the second's.
    existing = _scopes(vault, [vendor], ["metadata"])
    existing += _scopes(vault, [one] * 5, ["manifest", *groups[:4]]) + _scopes(
        vault, [two] * 5, ["manifest", *groups[4:]]
    )
    existing += [KeyScope(new_id(), scope.compartment, scope.group, scope.epoch) for scope in granted]
    for scope in existing:
        allowed = any(_allows(each, "kms:Decrypt", ARN, scope.context()) for each in statements)
        assert allowed == (scope in granted)
    context = granted[0].context()
    for action, key, asked in (
        ("kms:Decrypt", ARN.replace("1111", "9999"), context),
        ("kms:Encrypt", ARN, context),
        ("kms:ReEncryptFrom", ARN, context),
        ("kms:Decrypt", ARN, {**context, "more": "1"}),
        ("kms:Decrypt", ARN, {name: value for name, value in context.items() if name != "dsvault:group"}),
        ("kms:Decrypt", ARN, {}),
    ):
        assert not any(_allows(each, action, key, asked) for each in statements)


@pytest.mark.parametrize("columns", [1, 60, 400, 3000])
def test_iam_policies_stay_within_the_limit(columns: int) -> None:
    """However many columns there are, each policy can be attached, and together they name every column once."""
    vault, place = new_id(), new_id()
    scopes = [KeyScope(vault, place, new_id(), 1) for _ in range(columns)]
    policies = aws_iam_policies([f"awskms:{ARN}"], [scope.context() for scope in scopes])
    assert all(len(json.dumps(policy, separators=(",", ":"))) <= AWS_MANAGED_POLICY_CHARACTERS for policy in policies)
    named = [
        group
        for policy in policies
        for statement in policy["Statement"]
        for group in statement["Condition"]["StringEquals"]["kms:EncryptionContext:dsvault:group"]
    ]
    assert sorted(named) == sorted(scope.group for scope in scopes)


def test_a_key_policy_lets_the_broker_unwrap_and_the_account_only_administer() -> None:
    """The broker's role decrypts the granted contexts; the account's root can use the key for nothing."""
    vault, place, group = new_id(), new_id(), new_id()
    scope = KeyScope(vault, place, group, 1)
    policy = aws_key_policy(f"awskms:{ARN}", [scope.context()], BROKER, OWNER)
    who = {str(statement["Principal"]["AWS"]): statement for statement in policy["Statement"]}
    root = who["arn:aws:iam::123456789012:root"]
    uses = (
        "kms:Decrypt",
        "kms:Encrypt",
        "kms:GenerateDataKey",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
        "kms:CreateGrant",
    )
    assert not any(_allows(root, action, ARN, scope.context()) for action in uses)
    assert _allows(root, "kms:PutKeyPolicy", ARN, {})
    assert _allows(who[BROKER], "kms:Decrypt", ARN, scope.context())
    other = KeyScope(vault, place, new_id(), 1)
    assert not _allows(who[BROKER], "kms:Decrypt", ARN, other.context())
    assert all(_allows(who[OWNER], action, ARN, scope.context()) for action in uses[:-1])


def test_a_key_policy_that_is_too_long_is_refused() -> None:
    """Beyond 32 KiB the sentence says the size, the limit, and what to do."""
    scopes = [KeyScope(new_id(), new_id(), new_id(), 1).context() for _ in range(200)]
    with pytest.raises(InvalidInput, match=f"{AWS_KEY_POLICY_BYTES}.*--group"):
        aws_key_policy(f"awskms:{ARN}", scopes, BROKER, OWNER)
    with pytest.raises(InvalidInput, match="6,144"):
        aws_iam_policies([f"awskms:{ARN}{number}" for number in range(100)], scopes[:1])


def test_a_policy_in_another_services_language_is_refused() -> None:
    """Keys of one service are not described in the language of another, and nothing needs no policy."""
    context = KeyScope(new_id(), new_id(), new_id(), 1).context()
    transit, local = f"transit:dsvault-{new_id()}-{new_id()[:8]}:1", f"local:{new_id()}"
    for key, make in itertools.product(
        (local,),
        (
            lambda key: openbao_policy("transit", [key], [context]),
            lambda key: aws_iam_policies([key], [context]),
            lambda key: aws_key_policy(key, [context], BROKER, OWNER),
        ),
    ):
        with pytest.raises(InvalidInput, match="--format"):
            make(key)
    for make_none in (
        lambda: openbao_policy("transit", [transit], []),
        lambda: aws_iam_policies([f"awskms:{ARN}"], []),
    ):
        with pytest.raises(InvalidInput, match="no data key"):
            make_none()
