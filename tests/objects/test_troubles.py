"""What an error of a store's package stands for, and when a request is made again."""

import errno
from typing import Any

import pytest

from vault.objects import troubles
from vault.objects.troubles import Trouble, patiently, told


class _Answer(Exception):
    """An error with an answer in it, as botocore's, azure-core's and gcsfs's are."""

    def __init__(self, **fields: Any) -> None:
        super().__init__("https://bucket.example/x?X-Amz-Signature=secret")
        for name, value in fields.items():
            setattr(self, name, value)


def _s3(status: int, code: str) -> _Answer:
    return _Answer(response={"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}})


class ServiceResponseError(Exception):
    """As azure-core names it."""


@pytest.mark.parametrize(
    "error",
    [
        _s3(503, "SlowDown"),
        _s3(400, "RequestTimeout"),
        _s3(409, "ConditionalRequestConflict"),
        _s3(429, "TooManyRequests"),
        _Answer(status_code=503),
        _Answer(code="429"),
        ServiceResponseError("https://account.example/?sig=secret"),
        ConnectionResetError("secret"),
        TimeoutError(),
        OSError(errno.EBUSY, "secret"),
    ],
)
def test_what_passes_is_tried_again(error: Exception) -> None:
    """Throttling, a server's own error, a connection that was cut: the same request may succeed in a moment."""
    found = told(error)
    assert isinstance(found, Trouble)
    assert found.again
    assert "secret" not in str(found)
    assert "example" not in str(found)


@pytest.mark.parametrize(
    "error",
    [
        _s3(403, "AccessDenied"),
        _s3(404, "NoSuchBucket"),
        _s3(400, "<b>secret</b>"),
        _Answer(status_code=401),
        PermissionError("secret"),
        OSError("Forbidden: secret"),
        OSError(errno.ENOSPC, "secret"),
        ValueError("secret"),
    ],
)
def test_what_does_not_pass_is_told_at_once(error: Exception) -> None:
    """A refusal, a mistake, a full disk: one word says what it was, and none of the package's own."""
    found = told(error)
    assert isinstance(found, Trouble)
    assert not found.again
    assert "secret" not in str(found)
    assert str(found)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (_s3(404, "NoSuchKey"), FileNotFoundError),
        (_Answer(status_code=404), FileNotFoundError),
        (_s3(412, "PreconditionFailed"), FileExistsError),
        (_s3(416, "InvalidRange"), EOFError),
        (FileExistsError("secret"), FileExistsError),
    ],
)
def test_answers_that_say_something_are_no_trouble(error: Exception, kind: type[Exception]) -> None:
    """It is missing, it is there, it is not as long."""
    assert type(told(error)) is kind
    assert "secret" not in str(told(error))


def test_an_error_beneath_an_error_is_no_answer() -> None:
    """aiohttp's parser has a code 400 of its own for an answer that was cut: that is no status of the store's."""
    outer = ConnectionError()
    outer.__cause__ = _Answer(code=400)
    found = told(outer)
    assert isinstance(found, Trouble)
    assert found.again


class _Time:
    def __init__(self, taking: float) -> None:
        self.now, self.tries, self._taking = 0.0, 0, taking

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def request(self) -> None:
        self.tries += 1
        self.now += self._taking
        raise Trouble("throttled", again=True)


@pytest.mark.parametrize(("taking", "seconds", "least", "most"), [(0.01, 20, 6, 30), (30, 20, 2, 2), (30, 1, 1, 1)])
def test_trying_has_an_end(
    monkeypatch: pytest.MonkeyPatch, taking: float, seconds: float, least: int, most: int
) -> None:
    """Many tries with waits while each fails fast; one more where the first took all of the time, unless it is short."""
    time = _Time(taking)
    monkeypatch.setattr(troubles, "time", time)
    with pytest.raises(Trouble, match="throttled"):
        patiently(time.request, seconds)
    assert least <= time.tries <= most
    assert time.now <= max(seconds, 2 * taking + 5)
