"""What AWS answers and moto never does: each refusal becomes the right error, with botocore's own stubs."""

import logging
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from tests.support.faults import proxy
from vault.errors import InvalidInput, KeyUnavailable, KmsError
from vault.kms import open_kms
from vault.kms.aws import AwsKms

ARN = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
OTHER = ARN.replace("1111", "6666", 1)


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> AwsKms:
    """A client whose requests go nowhere."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    return AwsKms("eu-central-1", endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("code", "family", "said"),
    [
        ("AccessDeniedException", KeyUnavailable, "access denied"),
        ("DisabledException", KeyUnavailable, "disabled"),
        ("KMSInvalidStateException", KeyUnavailable, "pending deletion"),
        ("NotFoundException", KeyUnavailable, "not there"),
        ("KeyUnavailableException", KeyUnavailable, "not available"),
        ("InvalidCiphertextException", KmsError, "does not open"),
        ("IncorrectKeyException", KmsError, "does not open"),
        ("KMSInternalException", KmsError, "KMSInternalException"),
        ("LimitExceededException", KmsError, "LimitExceededException"),
    ],
)
def test_every_refusal_is_a_sentence(kms: AwsKms, code: str, family: type[KmsError], said: str) -> None:
    """An answer of AWS becomes KeyUnavailable or KmsError with a sentence, and nothing of what was sent is in it."""
    with Stubber(kms._client) as stub:
        stub.add_client_error("decrypt", code, "the service's own text with SECRET in it", http_status_code=400)
        with pytest.raises(family, match=said) as caught:
            kms.unwrap(f"awskms:{ARN}", b"blob", {"k": "v"})
    assert isinstance(caught.value, KeyUnavailable) == (family is KeyUnavailable)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_source_key_is_sent(kms: AwsKms) -> None:
    """ReEncrypt names the source key, so that AWS refuses a blob of another one."""
    with Stubber(kms._client) as stub:
        expected: dict[str, Any] = {
            "SourceKeyId": ARN,
            "CiphertextBlob": b"blob",
            "SourceEncryptionContext": {"k": "v"},
            "DestinationKeyId": OTHER,
            "DestinationEncryptionContext": {"k": "v"},
        }
        stub.add_response("re_encrypt", {"CiphertextBlob": b"moved"}, expected)
        assert kms.rewrap(f"awskms:{ARN}", b"blob", {"k": "v"}, f"awskms:{OTHER}") == b"moved"
        stub.add_client_error("re_encrypt", "IncorrectKeyException")
        with pytest.raises(KmsError):
            kms.rewrap(f"awskms:{ARN}", b"blob", {"k": "v"}, f"awskms:{OTHER}")


def test_destroying_waits_the_least_that_aws_allows(kms: AwsKms) -> None:
    """Destroying schedules the deletion in 7 days, once."""
    identifier = ARN.rpartition("/")[2]
    with Stubber(kms._client) as stub:
        stub.add_response("describe_key", {"KeyMetadata": {"KeyId": identifier, "KeyState": "Enabled"}})
        stub.add_response("schedule_key_deletion", {}, {"KeyId": identifier, "PendingWindowInDays": 7})
        kms.destroy_key(f"awskms:{ARN}")
        stub.add_response("describe_key", {"KeyMetadata": {"KeyId": identifier, "KeyState": "PendingDeletion"}})
        kms.destroy_key(f"awskms:{ARN}")
        stub.assert_no_pending_responses()


def test_an_unreachable_service_is_a_sentence(kms: AwsKms) -> None:
    """A service that cannot be reached is a KmsError after the retries, without a traceback of botocore's."""
    with pytest.raises(KmsError, match="could not be reached") as caught:
        kms.unwrap(f"awskms:{ARN}", b"blob", {})
    assert caught.value.__cause__ is None


def test_a_quiet_program_stays_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where warnings only are shown, botocore's lines about where it found what stay away, and what it sends always."""
    botocore = logging.getLogger("botocore")
    monkeypatch.setattr(botocore, "level", logging.NOTSET)
    for wanted in (logging.WARNING, logging.INFO, logging.DEBUG):
        botocore.setLevel(logging.NOTSET)
        monkeypatch.setattr(logging.getLogger(), "level", wanted)
        logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]
        AwsKms("eu-central-1", endpoint="http://127.0.0.1:9")
        assert botocore.getEffectiveLevel() == max(wanted, logging.INFO)


def test_a_region_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Region anywhere the sentence says what to add."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(InvalidInput, match="region"):
        open_kms("awskms://", owner=None, broker=None, passphrase=None)


def test_a_role_that_is_assumed_is_the_identity(moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile with a role_arn makes the calls as that role: each vendor's broker can have one of its own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(
        "[profile lab]\nregion = eu-central-1\naws_access_key_id = testing\naws_secret_access_key = testing\n"
        "[profile broker-acme]\nregion = eu-central-1\nsource_profile = lab\n"
        "role_arn = arn:aws:iam::123456789012:role/broker-acme\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    owner = AwsKms(None, endpoint=moto)
    key = owner.create_key("0" * 32)
    wrapped = owner.wrap(key, b"secret", {"k": "v"})
    monkeypatch.setenv("AWS_PROFILE", "broker-acme")
    broker = AwsKms(None, endpoint=moto)
    assert broker.unwrap(key, wrapped, {"k": "v"}) == b"secret"
    credentials = broker._client._request_signer._credentials
    assert credentials.method == "assume-role"
    assert credentials.get_frozen_credentials().token


def test_throttling_is_borne_with_pauses(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's ThrottlingException is met with growing pauses, four times; after that it is a KmsError."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with proxy(moto) as before:
        kms = AwsKms("eu-central-1", endpoint=before.address)
        key = kms.create_key("0" * 32)
        before.next("aws-throttle", "aws-throttle", "aws-throttle")
        wrapped = kms.wrap(key, b"secret", {})
        assert before.met == ["aws-throttle"] * 3
        before.next(*["aws-throttle"] * 20)
        with pytest.raises(KmsError, match="ThrottlingException"):
            kms.unwrap(key, wrapped, {})
        assert len(before.met) == 5
