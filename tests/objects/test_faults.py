"""A store that is not well: what passes is waited for, what was done is found out, and what does not end has an end."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.objects.places import moto_bucket, s3_environment
from tests.support.bucketline import BucketLine
from tests.support.servers import free_port
from vault.errors import Conflict, IntegrityError, NotFound, Unavailable
from vault.objects import ObjectStore, open_store, writing
from vault.objects.s3 import S3Files


@pytest.fixture
def store(line: BucketLine, moto: str) -> ObjectStore:
    """An empty store behind it."""
    return open_store(f"s3://{moto_bucket(moto)}/vault")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Eleven MiB, which go in three parts."""
    monkeypatch.setattr(writing, "WHOLE", 6 << 20)
    monkeypatch.setattr(writing, "PART", 5 << 20)
    return os.urandom(11 << 20)


@pytest.mark.parametrize("fault", ["error", "throttle", "too many", "closed", "lost"])
def test_an_error_that_passes_is_no_error(store: ObjectStore, line: BucketLine, fault: str) -> None:
    """Each act meets the fault twice, and is done; a put exactly once, whether or not its answer was lost."""
    line.next("PutObject", fault, fault)
    store.put("objects/a", b"content")
    line.next("GetObject", fault, fault, "", fault)
    assert store.get("objects/a") == b"content"
    assert store.get_range("objects/a", 1, 4) == b"ont"
    line.next("HeadObject", fault)
    assert store.size("objects/a") == 7
    line.next("ListObjects", fault)
    assert [info.name for info in store.list("objects")] == ["objects/a"]
    line.next("DeleteObject", fault)
    store.delete("objects/a")
    assert store.size("objects/a") is None
    assert line.unmet == []


def test_a_put_whose_answer_was_lost_is_ours_by_its_mark(store: ObjectStore, line: BucketLine) -> None:
    """It was done, and its second try meets what the first one wrote: that bears its mark, and it is no Conflict."""
    line.next("PutObject", "lost")
    with line.counting() as counts:
        store.put("objects/a", b"ours")
    assert counts == {"PutObject": 2, "HeadObject": 1}
    assert store.get("objects/a") == b"ours"


def test_of_a_store_without_marks_every_byte_is_compared(
    store: ObjectStore, line: BucketLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a store forgets what was said beside an object, what was written is ours, and what differs is not."""
    monkeypatch.setattr(S3Files, "looked_at", lambda files, path: (4, None))
    line.next("PutObject", "lost")
    store.put("objects/a", b"ours")
    line.next("PutObject", "lost")
    with pytest.raises(Conflict):
        store.put("objects/a", b"them")
    assert store.get("objects/a") == b"ours"


@pytest.mark.parametrize("theirs", [b"ours", b"them", b"longer than ours"])
def test_a_put_whose_answer_was_lost_is_not_taken_for_anothers(
    store: ObjectStore, line: BucketLine, moto: str, theirs: bytes
) -> None:
    """Somebody else's object came first: however the answer was lost, it is a Conflict, and theirs stays."""
    store.put("objects/a", theirs)
    line.next("PutObject", "lost")
    with pytest.raises(Conflict):
        store.put("objects/a", b"ours")
    assert store.get("objects/a") == theirs


def test_nobody_wins_twice(store: ObjectStore, line: BucketLine) -> None:
    """Also the same bytes again are a second object of one name."""
    store.put("objects/a", b"same")
    with line.counting() as counts, pytest.raises(Conflict):
        store.put("objects/a", b"same")
    assert counts == {"PutObject": 1, "HeadObject": 1}


def test_one_of_sixteen_wins_though_answers_are_lost(store: ObjectStore, line: BucketLine) -> None:
    """Half of sixteen writers lose their first answer: exactly one has won, and its bytes read back."""
    line.next("PutObject", *["lost", "", "throttle", "", "lost", "closed", "", "lost"] * 2)
    won: list[bytes] = []
    lost: list[int] = []

    def put(number: int) -> None:
        data = bytes([number]) * 1000
        try:
            store.put("objects/race", data)
            won.append(data)
        except Conflict:
            lost.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lost) == 15
    assert won == [store.get("objects/race")]


def test_each_part_of_a_big_object_is_tried_again(store: ObjectStore, line: BucketLine, parts: bytes) -> None:
    """Every request of an upload in parts meets a fault, and the completion's answer is lost: the object is there."""
    line.next("CreateUpload", "throttle")
    line.next("UploadPart", "error", "closed", "lost", "")
    line.next("CompleteUpload", "lost")
    store.put_pieces("objects/big", lambda write: write(memoryview(parts)))
    assert line.unmet == []
    assert store.get("objects/big") == parts


def test_a_completion_whose_answer_was_lost_is_not_taken_for_anothers(
    store: ObjectStore, line: BucketLine, parts: bytes
) -> None:
    """The same where somebody else's object stands there: a Conflict, theirs stays, and no upload is left open."""
    store.put("objects/big", b"theirs")
    line.next("CompleteUpload", "lost")
    with pytest.raises(Conflict):
        store.put("objects/big", parts)
    assert store.get("objects/big") == b"theirs"
    assert line.counts["AbortUpload"] == 1


def test_an_upload_that_fails_leaves_no_parts(store: ObjectStore, line: BucketLine, parts: bytes) -> None:
    """A part that is refused for good ends the put in one sentence, and its upload is aborted."""
    line.next("UploadPart", "", "forbidden")
    with pytest.raises(Unavailable, match=r"^an object could not be written in the store \(AccessDenied\)$"):
        store.put("objects/big", parts)
    assert line.counts["AbortUpload"] == 1
    assert store.size("objects/big") is None


def test_what_a_killed_upload_left_goes_in_time(store: ObjectStore, line: BucketLine, parts: bytes) -> None:
    """Parts of an upload that nobody completes are no object, and are let go of once they are old."""
    line.next("UploadPart", "", "forbidden")
    line.next("AbortUpload", "forbidden")
    with pytest.raises(Unavailable):
        store.put("objects/big", parts)
    now = datetime.now(UTC)
    # moto says of every upload that it was begun in 2010.
    store.discard_unfinished(datetime(2009, 1, 1, tzinfo=UTC))
    assert line.counts["AbortUpload"] == 1
    store.discard_unfinished(now + timedelta(hours=1))
    assert line.counts["AbortUpload"] == 2
    store.discard_unfinished(now + timedelta(hours=1))
    assert line.counts["AbortUpload"] == 2
    line.next("ListUploads", "forbidden")
    store.discard_unfinished(now)


def test_a_read_that_is_cut_is_read_again(store: ObjectStore, line: BucketLine) -> None:
    """A connection that ends half-way, of a whole object and of a range: nothing short is taken for the whole."""
    data = os.urandom(300_000)
    store.put("objects/a", data)
    line.next("GetObject", "cut", "cut", "", "cut")
    assert store.get("objects/a") == data
    assert store.get_range("objects/a", 1000, 200_000) == data[1000:200_000]
    assert line.unmet == []


def test_a_range_that_the_object_does_not_have_is_no_passing_trouble(store: ObjectStore, line: BucketLine) -> None:
    """An object that is shorter than the manifest says is told at once."""
    store.put("objects/a", b"1234")
    with line.counting() as counts:
        for start, stop in ((2, 6), (4, 6)):
            with pytest.raises(IntegrityError, match="shorter"):
                store.get_range("objects/a", start, stop)
    assert counts == {"GetObject": 2}


def test_trouble_that_does_not_pass_has_an_end(store: ObjectStore, line: BucketLine) -> None:
    """A store that throttles for ever is left after a bounded time, with waits between the tries, in one sentence."""
    store.put("objects/a", b"x")
    line.next("GetObject", *["throttle"] * 1000)
    began = time.monotonic()
    with line.counting() as counts, pytest.raises(Unavailable) as caught:
        store.within(1.5).get("objects/a")
    assert str(caught.value) == "an object could not be read in the store (SlowDown)"
    assert time.monotonic() - began < 15
    assert 3 <= counts["GetObject"] <= 8


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda store: store.put("objects/a", b"x"), "PutObject"),
        (lambda store: store.get("objects/a"), "GetObject"),
        (lambda store: store.size("objects/a"), "HeadObject"),
        (lambda store: list(store.list("objects")), "ListObjects"),
        (lambda store: store.delete("objects/a"), "DeleteObject"),
    ],
)
def test_what_is_refused_is_not_asked_again(store: ObjectStore, line: BucketLine, act: object, kind: str) -> None:
    """Who may not is told so at once, in a sentence without the address, the bucket or a credential."""
    line.next(kind, "forbidden")
    with line.counting() as counts, pytest.raises(Unavailable) as caught:
        act(store)  # type: ignore[operator]
    assert counts == {kind: 1}
    told = str(caught.value)
    assert "127.0.0.1" not in told
    assert "tests-" not in told
    assert "key-of-the-tests" not in told
    assert len(told) < 100


def test_a_server_that_is_gone_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens: one sentence, within the time that was given, and no other kind of error."""
    for name, value in s3_environment(f"http://127.0.0.1:{free_port()}").items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://bucket/vault").within(0.3)
    for act in (
        lambda: store.get("objects/a"),
        lambda: store.put("objects/b", b""),
        lambda: store.size("objects/a"),
        lambda: list(store.list("objects")),
        lambda: store.delete("objects/a"),
    ):
        with pytest.raises(Unavailable, match="an object could not be"):
            act()


def test_a_bucket_that_is_not_there_is_not_an_object_that_is_missing(line: BucketLine) -> None:
    """What is taken for a missing object could be collected, or refused as damage: a missing bucket is neither."""
    store = open_store("s3://no-such-bucket/vault")
    for act in (lambda: store.get("objects/a"), lambda: store.put("objects/a", b"x"), lambda: list(store.list("a"))):
        with pytest.raises(Unavailable, match="there is no such bucket"):
            act()


def test_a_missing_object_is_missing_at_once(store: ObjectStore, line: BucketLine) -> None:
    """No second request looks whether a folder of that name may be meant."""
    with line.counting() as counts:
        with pytest.raises(NotFound):
            store.get("objects/a")
        assert store.size("objects/a") is None
    assert counts == {"GetObject": 1, "HeadObject": 1}
