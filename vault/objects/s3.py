"""S3 through s3fs: each act is the one request that it has to be.

s3fs keeps listings, looks at parents, and asks for sizes before it reads; here it lends its session and its calls.
Neither s3fs nor botocore makes a request again: that is decided in `vault.objects.troubles`, with an end. Below them
aiohttp still sends a put again where a connection was cut that it had used before, and tells nobody.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, final

from vault.objects.files import Files, Found, telling
from vault.objects.troubles import Trouble

__all__ = ["S3Files", "Upload", "options"]

_DELETED_AT_ONCE: Final = 1000
#: How long an answer may take. It has to do for sending a part too: the time runs from the request's beginning.
_READ_SECONDS: Final = 30
#: The metadata that tells who wrote an object: a random word that is good for one put.
_MARK: Final = "dsvault-put"
#: Connections kept, for the threads of a busy broker or publisher.
_CONNECTIONS: Final = 64


def options(configured: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file system of s3fs's, with those that are ``configured`` for fsspec as far as they go."""
    given = dict(configured.get("config_kwargs") or {})
    ours = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
    # Addresses with the old signature are refused by newer regions, and do not name the time that they end.
    defaults = {
        "signature_version": "s3v4",
        "max_pool_connections": _CONNECTIONS,
        "connect_timeout": 5,
        "read_timeout": _READ_SECONDS,
    }
    # A file system of its own: one that somebody else has made may have another endpoint, or retries.
    return {"config_kwargs": defaults | given | ours, "use_listings_cache": False, "skip_instance_cache": True}


@final
class Upload:
    """An object that is on its way in parts; until it is completed nobody finds anything under its path."""

    def __init__(self, filesystem: Any, path: str, mark: str) -> None:
        self._fs = filesystem
        bucket, key, _ = filesystem.split_path(path)
        self._place = {"Bucket": bucket, "Key": key}
        with telling():
            begun = filesystem.call_s3("create_multipart_upload", **self._place, Metadata={_MARK: mark})
        self._id = str(begun["UploadId"])

    def part(self, number: int, data: bytes) -> dict[str, Any]:
        """Send a part; sending it again changes nothing."""
        with telling():
            answer = self._fs.call_s3("upload_part", **self._place, UploadId=self._id, PartNumber=number, Body=data)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def complete(self, parts: Sequence[dict[str, Any]]) -> None:
        """Make the parts the object; raises FileExistsError where there is one, FileNotFoundError once it is over."""
        with telling():
            self._fs.call_s3(
                "complete_multipart_upload",
                **self._place,
                UploadId=self._id,
                MultipartUpload={"Parts": list(parts)},
                IfNoneMatch="*",
            )

    def abort(self) -> None:
        """Let go of the parts, as far as that is possible: gc looks for what is left."""
        with suppress(Trouble, FileNotFoundError), telling():
            self._fs.call_s3("abort_multipart_upload", **self._place, UploadId=self._id)


@final
class S3Files(Files):
    """A bucket."""

    def __init__(self, filesystem: Any) -> None:
        super().__init__(filesystem)
        filesystem.retries = 1

    def put(self, path: str, data: bytes, mark: str) -> None:
        """Write an object; raises FileExistsError where there is one."""
        with telling():
            self._fs.call_s3("put_object", **self._place(path), Body=data, Metadata={_MARK: mark}, IfNoneMatch="*")

    def upload(self, path: str, mark: str) -> Upload:
        """Begin to write an object in parts."""
        return Upload(self._fs, path, mark)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Some bytes of an object, fewer where it ends before, or all of it."""
        with telling():
            if stop is None:
                # With more than one at once s3fs would ask for the size first.
                return bytes(self._fs.cat_file(path, max_concurrency=1))
        return self._range(path, start, stop)

    def looked_at(self, path: str) -> tuple[int, str | None]:
        """An object's size, and its writer's word where there is one."""
        with telling():
            answer = self._fs.call_s3("head_object", **self._place(path))
        words = {name.lower(): word for name, word in (answer.get("Metadata") or {}).items()}
        return int(answer["ContentLength"]), words.get(_MARK)

    def size(self, path: str) -> int:
        """An object's size."""
        return self.looked_at(path)[0]

    def list(self, path: str) -> Iterator[Found]:
        """Every object below a folder."""
        place = self._place(path)
        asked: dict[str, Any] = {"Bucket": place["Bucket"], "Prefix": place["Key"] + "/"}
        for page in self._pages("list_objects_v2", asked, {"ContinuationToken": "NextContinuationToken"}):
            for each in page.get("Contents", ()):
                yield Found(f"{place['Bucket']}/{each['Key']}", int(each["Size"]), each.get("LastModified"))

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects, many with one request; those that are gone already are no error."""
        if len(paths) == 1:
            with telling():
                self._fs.call_s3("delete_object", **self._place(paths[0]))
            return
        for first in range(0, len(paths), _DELETED_AT_ONCE):
            places = [self._place(path) for path in paths[first : first + _DELETED_AT_ONCE]]
            wanted = {"Objects": [{"Key": place["Key"]} for place in places], "Quiet": True}
            with telling():
                answer = self._fs.call_s3("delete_objects", Bucket=places[0]["Bucket"], Delete=wanted)
            if errors := answer.get("Errors"):
                raise Trouble(f"{len(errors)} were refused", again=False)

    def link(self, path: str, seconds: int) -> str | None:
        """An address that anybody may read an object at for that long."""
        with telling():
            return str(self._fs.sign(path, expiration=seconds))

    def discard_unfinished(self, prefix: str, before: datetime) -> None:
        """Abort uploads in parts begun before then; where that is not allowed, a rule of the bucket has to."""
        place = self._place(f"{prefix}/objects")
        asked: dict[str, Any] = {"Bucket": place["Bucket"], "Prefix": place["Key"] + "/"}
        following = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        with suppress(Trouble, FileNotFoundError):
            for page in self._pages("list_multipart_uploads", asked, following):
                for each in page.get("Uploads", ()):
                    if each["Initiated"] < before:
                        with telling():
                            self._fs.call_s3(
                                "abort_multipart_upload",
                                Bucket=place["Bucket"],
                                Key=each["Key"],
                                UploadId=each["UploadId"],
                            )

    def _pages(self, method: str, asked: dict[str, Any], following: dict[str, str]) -> Iterator[dict[str, Any]]:
        while True:
            with telling():
                page: dict[str, Any] = self._fs.call_s3(method, **asked)
            yield page
            if not page.get("IsTruncated"):
                return
            asked = asked | {name: page[of] for name, of in following.items()}

    def _place(self, path: str) -> dict[str, str]:
        bucket, key, _ = self._fs.split_path(path)
        return {"Bucket": bucket, "Key": key}
