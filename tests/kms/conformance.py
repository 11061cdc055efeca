"""What every KMS backend has to pass, written against `vault.kms.Kms` alone.

A backend's test module subclasses `KmsConformance` and gives two fixtures. ``connect`` is a function that returns
another client of the same service, as a second process would have it. ``trouble`` is a context manager that takes
``slow``, ``error`` (once, nothing was done) or ``lost`` (once, done but not answered) and makes the service, or what
it stands on, behave so; it yields a function that says whether the trouble was met.
"""

import base64
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

import pytest

from vault.encoding import new_id
from vault.errors import KeyUnavailable, KmsError
from vault.kms import DataKey, KeyState, Kms
from vault.model import KeyScope

Connect = Callable[[], Kms]
Trouble = Callable[[str], AbstractContextManager[Callable[[], bool]]]
SECRET = bytes(range(100, 132))


def context(group: str = "g1") -> dict[str, str]:
    """A context of the form that dsvault uses."""
    return KeyScope("v", "c", group, 1).context()


def traces(secret: bytes) -> list[str]:
    """The forms in which a secret could stand in a text."""
    return [secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1], secret.decode("latin-1")]


def texts(error: BaseException | None) -> Iterator[str]:
    """Everything that a log would show of an error."""
    while error is not None:
        yield from (str(error), repr(error), repr(error.args))
        error = error.__cause__ or error.__context__


Result = TypeVar("Result")


def again(call: Callable[[], Result], kind: str) -> Result:
    """What a call gives, asked for once more where it met trouble that it did not bear by itself."""
    try:
        return call()
    except KmsError:
        if kind == "slow":
            raise
        return call()


class KmsConformance:
    """The suite; `connect` is the backend's.

    ``tells_tampering`` is False where a blob that was changed may look like one of a key that is not there.
    """

    tells_tampering = True

    @pytest.fixture
    def connect(self) -> Connect:
        """A function that gives another client of the same service."""
        raise NotImplementedError

    @pytest.fixture
    def trouble(self) -> Trouble:
        """A function that makes the service behave badly for a while."""
        raise NotImplementedError

    @pytest.fixture
    def kms(self, connect: Connect) -> Kms:
        """One client."""
        return connect()

    @pytest.fixture
    def key(self, kms: Kms) -> str:
        """A vendor's KMS key."""
        return kms.create_key(new_id())

    def test_round_trip(self, kms: Kms, key: str) -> None:
        """What was wrapped opens under the same key and context, with every client."""
        assert kms.unwrap(key, kms.wrap(key, SECRET, context()), context()) == SECRET

    def test_second_client(self, kms: Kms, key: str, connect: Connect) -> None:
        """A second client opens what the first one wrapped."""
        assert connect().unwrap(key, kms.wrap(key, SECRET, context()), context()) == SECRET

    def test_data_key(self, kms: Kms, key: str) -> None:
        """A data key has 256 bits, is fresh each time, and its wrapped form opens to it."""
        first, second = (kms.generate_data_key(key, context()) for _ in range(2))
        assert len(first.plaintext) == 32
        assert first.plaintext != second.plaintext
        assert kms.unwrap(key, first.wrapped, context()) == first.plaintext
        assert first.plaintext not in first.wrapped

    def test_wrapping_is_random(self, kms: Kms, key: str) -> None:
        """The same plaintext wrapped twice gives two blobs."""
        assert kms.wrap(key, SECRET, context()) != kms.wrap(key, SECRET, context())

    @pytest.mark.parametrize("size", [1, 31, 4096])
    def test_sizes(self, kms: Kms, key: str, size: int) -> None:
        """Anything up to 4,096 bytes can be wrapped."""
        assert kms.unwrap(key, kms.wrap(key, b"x" * size, context()), context()) == b"x" * size

    def test_too_long(self, kms: Kms, key: str) -> None:
        """More than 4,096 bytes are refused."""
        with pytest.raises(KmsError):
            kms.wrap(key, bytes(4097), context())

    @pytest.mark.parametrize(
        "other",
        [
            {},
            context("g2"),
            {name: value for name, value in context().items() if not name.endswith("epoch")},
            context() | {"more": "1"},
            {value: name for name, value in context().items()},
            {name.upper(): value for name, value in context().items()},
            {"dsvault:vault": "vc", "dsvault:compartment": "", "dsvault:group": "g1", "dsvault:epoch": "1"},
        ],
    )
    def test_wrong_context(self, kms: Kms, key: str, other: dict[str, str]) -> None:
        """A blob opens with its own context only."""
        wrapped = kms.wrap(key, SECRET, context())
        with pytest.raises(KmsError) as caught:
            kms.unwrap(key, wrapped, other)
        assert not isinstance(caught.value, KeyUnavailable)

    def test_context_order(self, kms: Kms, key: str) -> None:
        """The order of a context's pairs does not matter."""
        backwards = dict(reversed(context().items()))
        assert kms.unwrap(key, kms.wrap(key, SECRET, context()), backwards) == SECRET

    def test_empty_context(self, kms: Kms, key: str) -> None:
        """An empty context is one, and differs from every other."""
        wrapped = kms.wrap(key, SECRET, {})
        assert kms.unwrap(key, wrapped, {}) == SECRET
        with pytest.raises(KmsError):
            kms.unwrap(key, wrapped, {"": ""})

    def test_every_character(self, kms: Kms, key: str) -> None:
        """A context's values may hold any character, and each one counts."""
        text = "".join(map(chr, range(256))) + "\u0301é\u20ac\U0001f512"
        wrapped = kms.wrap(key, SECRET, {"k": text})
        assert kms.unwrap(key, wrapped, {"k": text}) == SECRET
        for position in range(0, len(text), 16):
            with pytest.raises(KmsError):
                kms.unwrap(key, wrapped, {"k": text[:position] + text[position + 1 :]})

    def test_wrong_key(self, kms: Kms, key: str) -> None:
        """A blob does not open under another key."""
        other = kms.create_key(new_id())
        wrapped = kms.wrap(key, SECRET, context())
        with pytest.raises(KmsError):
            kms.unwrap(other, wrapped, context())

    def test_tampered(self, kms: Kms, key: str) -> None:
        """A blob with any one byte changed, cut anywhere, or made longer is refused."""
        wrapped = kms.wrap(key, SECRET, context())
        changed = [wrapped[:i] + bytes([wrapped[i] ^ 1]) + wrapped[i + 1 :] for i in range(len(wrapped))]
        cut = [wrapped[:i] for i in range(len(wrapped))]
        for blob in [*changed, *cut, wrapped + b"\0", b"\0" + wrapped]:
            with pytest.raises(KmsError) as caught:
                kms.unwrap(key, blob, context())
            assert not (self.tells_tampering and isinstance(caught.value, KeyUnavailable))

    def test_rewrap(self, kms: Kms, key: str) -> None:
        """A rewrapped blob opens under the target only, with the same context."""
        target = kms.create_key(new_id())
        wrapped = kms.rewrap(key, kms.wrap(key, SECRET, context()), context(), target)
        assert kms.unwrap(target, wrapped, context()) == SECRET
        with pytest.raises(KmsError):
            kms.unwrap(key, wrapped, context())
        with pytest.raises(KmsError):
            kms.unwrap(target, wrapped, context("g2"))

    def test_rewrap_in_place(self, kms: Kms, key: str) -> None:
        """A blob may be rewrapped under its own key, which gives another blob."""
        wrapped = kms.wrap(key, SECRET, context())
        again = kms.rewrap(key, wrapped, context(), key)
        assert again != wrapped
        assert kms.unwrap(key, again, context()) == SECRET

    def test_rewrap_checks_the_source(self, kms: Kms, key: str) -> None:
        """Rewrapping opens the blob under the source key and the given context, and nothing else."""
        target = kms.create_key(new_id())
        wrapped = kms.wrap(key, SECRET, context())
        with pytest.raises(KmsError):
            kms.rewrap(key, wrapped, context("g2"), target)
        with pytest.raises(KmsError):
            kms.rewrap(target, wrapped, context(), key)

    def assert_unusable(self, kms: Kms, key: str, wrapped: bytes) -> None:
        """No method that uses the key works."""
        other = kms.create_key(new_id())
        uses: list[Callable[[], object]] = [
            lambda: kms.unwrap(key, wrapped, context()),
            lambda: kms.wrap(key, SECRET, context()),
            lambda: kms.generate_data_key(key, context()),
            lambda: kms.rewrap(key, wrapped, context(), other),
            lambda: kms.rewrap(other, kms.wrap(other, SECRET, context()), context(), key),
        ]
        for use in uses:
            with pytest.raises(KeyUnavailable):
                use()

    def test_disabled(self, kms: Kms, key: str, connect: Connect) -> None:
        """A disabled key can be used by no client, not even by one that has just used it."""
        second = connect()
        wrapped = kms.wrap(key, SECRET, context())
        assert second.unwrap(key, wrapped, context()) == SECRET
        kms.disable_key(key)
        for client in (second, kms, connect()):
            assert client.state(key) is KeyState.DISABLED
            self.assert_unusable(client, key, wrapped)

    def test_enabled_again(self, kms: Kms, key: str, connect: Connect) -> None:
        """A key that is enabled again opens what it wrapped before, with every client."""
        second = connect()
        wrapped = kms.wrap(key, SECRET, context())
        kms.disable_key(key)
        with pytest.raises(KeyUnavailable):
            second.unwrap(key, wrapped, context())
        kms.enable_key(key)
        for client in (second, kms, connect()):
            assert client.state(key) is KeyState.ENABLED
            assert client.unwrap(key, wrapped, context()) == SECRET

    def test_repeated(self, kms: Kms, key: str) -> None:
        """Disabling, enabling and destroying may each be repeated."""
        kms.enable_key(key)
        assert kms.state(key) is KeyState.ENABLED
        for change, state in (
            (kms.disable_key, KeyState.DISABLED),
            (kms.enable_key, KeyState.ENABLED),
            (kms.destroy_key, KeyState.DESTROYED),
        ):
            for _ in range(2):
                change(key)
                assert kms.state(key) is state

    @pytest.mark.parametrize("disabled_before", [False, True])
    def test_destroyed(self, kms: Kms, key: str, connect: Connect, disabled_before: bool) -> None:
        """A destroyed key can be used by no client and cannot be brought back."""
        second = connect()
        wrapped = kms.wrap(key, SECRET, context())
        assert second.unwrap(key, wrapped, context()) == SECRET
        if disabled_before:
            kms.disable_key(key)
        kms.destroy_key(key)
        for client in (second, kms, connect()):
            for change in (client.enable_key, client.disable_key):
                with pytest.raises(KeyUnavailable):
                    change(key)
            assert client.state(key) is KeyState.DESTROYED
            self.assert_unusable(client, key, wrapped)

    def test_others_stay(self, kms: Kms, key: str) -> None:
        """Disabling and destroying touch the one key only."""
        other, third = kms.create_key(new_id()), kms.create_key(new_id())
        wrapped = kms.wrap(key, SECRET, context())
        kms.disable_key(other)
        kms.destroy_key(third)
        assert kms.unwrap(key, wrapped, context()) == SECRET

    def test_unknown_key(self, kms: Kms, key: str) -> None:
        """A reference to no key of this service is absent, whatever its form, and cannot be used or changed."""
        other = key.replace(key[-4:], "0000" if key[-4:] != "0000" else "1111")
        for reference in (other, "", ":", key + "/../" + key, "local:../" + key, "elsewhere:" + key, key + "\0"):
            assert kms.state(reference) is KeyState.ABSENT
            for use in (
                lambda: kms.unwrap(reference, b"x" * 64, context()),  # noqa: B023
                lambda: kms.wrap(reference, SECRET, context()),  # noqa: B023
                lambda: kms.disable_key(reference),  # noqa: B023
                lambda: kms.enable_key(reference),  # noqa: B023
                lambda: kms.destroy_key(reference),  # noqa: B023
            ):
                with pytest.raises(KeyUnavailable):
                    use()

    def test_keys_differ(self, kms: Kms) -> None:
        """Two keys made for one holder are two keys."""
        label = new_id()
        assert kms.create_key(label) != kms.create_key(label)

    @pytest.mark.parametrize("end", ["disable", "destroy"])
    def test_next_key(self, kms: Kms, key: str, connect: Connect, end: str) -> None:
        """A key's successor is another key: what moved to it stays readable when the old one ends."""
        old = kms.wrap(key, SECRET, context())
        successor = kms.rotate_key(key, new_id())
        assert successor != key
        assert kms.unwrap(key, old, context()) == SECRET
        assert kms.wrap(key, SECRET, context())
        moved = kms.rewrap(key, old, context(), successor)
        with pytest.raises(KmsError):
            kms.unwrap(successor, old, context())
        (kms.disable_key if end == "disable" else kms.destroy_key)(key)
        for client in (kms, connect()):
            assert client.unwrap(successor, moved, context()) == SECRET
            assert client.unwrap(successor, client.wrap(successor, SECRET, context()), context()) == SECRET
            assert client.state(successor) is KeyState.ENABLED
            with pytest.raises(KeyUnavailable):
                client.unwrap(key, old, context())
        if end == "disable":
            kms.enable_key(key)
            assert kms.unwrap(key, old, context()) == SECRET
        third = kms.rotate_key(successor, new_id())
        assert third not in {key, successor}

    def test_owner_key(self, kms: Kms) -> None:
        """The owner's key works as a vendor's does."""
        key = kms.create_key(new_id(), owner=True)
        assert kms.unwrap(key, kms.wrap(key, SECRET, context()), context()) == SECRET

    def test_threads(self, connect: Connect, key: str) -> None:
        """Eight threads at once, on a client that holds nothing yet, each get their own blobs back."""
        kms = connect()
        other = kms.create_key(new_id())
        start = threading.Barrier(8)

        def work(number: int) -> None:
            start.wait()
            for step in range(25):
                which, plaintext = (key, other)[step % 2], bytes([number, step]) * 16
                wrapped = kms.wrap(which, plaintext, context(str(number)))
                assert kms.unwrap(which, wrapped, context(str(number))) == plaintext

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(work, number) for number in range(8)]:
                done.result()

    def test_threads_while_it_changes(self, kms: Kms, key: str) -> None:
        """While a key is disabled and enabled, a thread gets its plaintext or KeyUnavailable and nothing else."""
        wrapped = kms.wrap(key, SECRET, context())
        stop, opened = threading.Event(), threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    assert kms.unwrap(key, wrapped, context()) == SECRET
                    opened.set()
                except KeyUnavailable:
                    continue

        with ThreadPoolExecutor(8) as pool:
            workers = [pool.submit(work) for _ in range(8)]
            try:
                for _ in range(5):
                    kms.disable_key(key)
                    opened.clear()
                    kms.enable_key(key)
                    assert opened.wait(30)
            finally:
                stop.set()
            for worker in workers:
                worker.result()

    @pytest.mark.parametrize("kind", ["slow", "error", "lost"])
    def test_trouble_in_use(self, connect: Connect, trouble: Trouble, key: str, kind: str) -> None:
        """A service that is slow, fails once, or loses its answer gives at most a KmsError, and the same call then works."""
        target = connect().create_key(new_id())
        wrapped = connect().wrap(key, SECRET, context())
        uses: list[Callable[[Kms], bytes]] = [
            lambda kms: kms.unwrap(key, wrapped, context()),
            lambda kms: kms.unwrap(key, kms.wrap(key, SECRET, context()), context()),
            lambda kms: kms.unwrap(target, kms.rewrap(key, wrapped, context(), target), context()),
        ]
        for use in uses:
            kms = connect()
            with trouble(kind) as met:
                assert again(lambda: use(kms), kind) == SECRET  # noqa: B023
                assert met()
        kms = connect()
        with trouble(kind):
            made = again(lambda: kms.generate_data_key(key, context()), kind)
        assert kms.unwrap(key, made.wrapped, context()) == made.plaintext

    @pytest.mark.parametrize("kind", ["slow", "error", "lost"])
    def test_trouble_in_changes(self, connect: Connect, trouble: Trouble, key: str, kind: str) -> None:
        """A change that met trouble is made by saying it again, and made once: repeating it does no harm."""
        kms = connect()
        with trouble(kind) as met:
            created = again(lambda: kms.create_key(new_id()), kind)
            assert met()
        assert kms.unwrap(created, kms.wrap(created, SECRET, context()), context()) == SECRET
        wrapped = kms.wrap(key, SECRET, context())
        with trouble(kind) as met:
            successor = again(lambda: kms.rotate_key(key, new_id()), kind)
            assert met()
        for change, state in (
            (kms.disable_key, KeyState.DISABLED),
            (kms.enable_key, KeyState.ENABLED),
            (kms.destroy_key, KeyState.DESTROYED),
        ):
            with trouble(kind) as met:
                again(lambda: change(key), kind)  # noqa: B023
                assert met()
            assert connect().state(key) is state
            assert connect().state(successor) is KeyState.ENABLED
        with pytest.raises(KmsError):
            kms.unwrap(successor, wrapped, context())

    def test_nothing_in_logs(
        self, connect: Connect, trouble: Trouble, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Not even at the level DEBUG does any logger write a plaintext."""
        kms = connect()
        with caplog.at_level(logging.DEBUG), trouble("error"):
            made = again(lambda: kms.generate_data_key(key, context()), "error")
            kms.unwrap(key, kms.wrap(key, made.plaintext, context()), context())
            with pytest.raises(KmsError):
                kms.unwrap(key, made.wrapped, context("g2"))
        shown = " ".join((caplog.text, *(str(record.__dict__) for record in caplog.records)))
        assert not any(trace in shown for trace in traces(made.plaintext))

    def test_nothing_in_texts(self, kms: Kms, key: str) -> None:
        """Neither an error nor a repr holds a plaintext."""
        made = kms.generate_data_key(key, context())
        shown = [repr(made), str(made), repr(kms)]
        failing: list[Callable[[], DataKey | bytes]] = [
            lambda: kms.unwrap(key, made.wrapped, {}),
            lambda: kms.unwrap(key, made.wrapped[:-1], context()),
            lambda: kms.wrap(key, made.plaintext * 200, context()),
            lambda: kms.wrap("nowhere", made.plaintext, context()),
        ]
        for fail in failing:
            with pytest.raises(KmsError) as caught:
                fail()
            shown += texts(caught.value)
        for trace in traces(made.plaintext):
            assert not any(trace in text for text in shown)
