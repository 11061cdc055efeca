"""What the broker publishes about itself is true: every answer to generated requests is one of those it lists."""

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema
import pytest
import schemathesis
import urllib3
from hypothesis import strategies
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.tables import rows

_EXAMPLES = 15
#: Of these the names in the path are given, as a client has them from the listings.
_NAMES = {"share": "dsvault", "schema": "default"}
_SHARING = ("shares", "share", "schemas", "tables", "all_tables", "version", "metadata", "changes", "query")
_NOT_GUESSED = frozenset({"grant", "columns", "cursor", "where"})
#: Everything is held against the published document: status, type, headers and members of each answer.
_CHECKS = (
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
)


@dataclass(frozen=True)
class _Served:
    """A running broker, its published document, and headers of three callers."""

    endpoint: str
    schema: Any
    callers: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Served]:
    """A broker over a vault with a dataset to stream and one to lease."""
    import vault

    folder: Path = tmp_path_factory.mktemp("openapi") / "lab"
    lab = Lab(folder, vault.init(folder))
    lab.vault.add_vendor("acme")
    lab.vault.publish("evals", rows(100), key="id", shard_rows=30)
    lab.vault.publish("leased", rows(10), key="id")
    lab.vault.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'")
    lab.vault.grant("acme", "leased", ["id", "prompt"], delivery="lease")
    good = lab.vault.issue_credential("acme", bearer=True).profile.token.header()
    callers = {
        "known": {"Authorization": good},
        "unknown": {},
        "wrong": {"Authorization": good[:-4] + ("AAA=" if good[-4:] != "AAA=" else "BBB=")},
    }
    with broker(folder) as endpoint, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schemathesis.serializer.alias("application/vnd.dsvault.submission", "application/octet-stream")
        yield _Served(endpoint, schemathesis.openapi.from_url(f"{endpoint}/openapi.json"), callers)


@pytest.mark.parametrize("caller", ["known", "unknown", "wrong"])
@pytest.mark.parametrize(
    "operation",
    [
        "healthz",
        "readyz",
        "datasets",
        "read",
        "lease",
        "submit",
        "object",
        "head_object",
        *_SHARING,
        "file",
        "head_file",
    ],
)
def test_generated_requests_are_answered_as_published(served: _Served, caller: str, operation: str) -> None:
    """Whoever asks for whatever, in the published shape or out of it: no 5xx, and no answer that is not listed."""
    found = served.schema.find_operation_by_id(operation)
    statuses: set[int] = set()

    def run(case: Any, real: str | None) -> None:
        if real is not None and operation in _SHARING:
            known = {**_NAMES, "name": real}
            case.path_parameters.update({key: known[key] for key in case.path_parameters})
            case.query = {}
            case.headers = {}
            case.body = {} if operation == "query" else case.body
        elif real is not None and "name" in case.path_parameters:
            case.path_parameters["name"] = real
            # An id, a cursor and names of columns are not to be guessed: without them some requests get through.
            if isinstance(case.body, dict):
                case.body = {key: value for key, value in case.body.items() if key not in _NOT_GUESSED}
        answer = case.call(headers=served.callers[caller], timeout=30)
        # Where one scheme alone is published, some wrong requests are sent without it.
        if caller == "unknown" or "Authorization" in answer.request.headers:
            statuses.add(answer.status_code)
        case.validate_response(answer, checks=_CHECKS)

    for mode in _modes(operation):
        _given(run, found.as_strategy(generation_mode=mode), strategies.sampled_from([None, "evals", "leased"]))
    answered = {"known": {200}, "unknown": {401}, "wrong": {401}}[caller]
    if operation in {"datasets", "read", "lease", *_SHARING}:
        assert operation == "changes" or answered <= statuses
        assert not statuses & {200, 401} - answered


def _modes(operation: str) -> list[schemathesis.GenerationMode]:
    """What takes nothing, or any bytes, cannot be asked wrongly."""
    never_wrong = operation in {"healthz", "readyz", "datasets", "submit"}
    return [schemathesis.GenerationMode.POSITIVE] if never_wrong else list(schemathesis.GenerationMode)


def _given(run: Callable[..., None], *drawn: Any) -> None:
    quick = hypothesis.settings(
        max_examples=_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    quick(hypothesis.given(*drawn)(run))()


def test_the_published_answers_to_good_requests_are_true(served: _Served) -> None:
    """A stream, a page of a lease, a chunk whole, in part and beyond its end: type and members as published."""
    document = served.schema.raw_schema
    headers = {**served.callers["known"], "Content-Type": "application/json"}

    def check(path: str, method: str, answer: urllib3.BaseHTTPResponse) -> None:
        published = document["paths"][path][method]["responses"][str(answer.status)]["content"]
        ((media_type, content),) = published.items()
        assert answer.headers["content-type"].partition(";")[0] == media_type
        if media_type.endswith("json"):
            schema = {**content["schema"], "components": document["components"]}
            jsonschema.validate(json.loads(answer.data), schema)

    def call(path: str, method: str, url: str, expected: int, **more: Any) -> urllib3.BaseHTTPResponse:
        answer = urllib3.request(method.upper(), served.endpoint + url, **more)
        assert answer.status == expected
        check(path, method, answer)
        return answer

    call("/healthz", "get", "/healthz", 200)
    call("/readyz", "get", "/readyz", 200)
    call("/v1/datasets", "get", "/v1/datasets", 200, headers=headers)
    reading, leasing = "/v1/datasets/{name}/read", "/v1/datasets/{name}/lease"
    call(reading, "post", "/v1/datasets/evals/read", 200, headers=headers, body=b"{}")
    call(reading, "post", "/v1/datasets/other/read", 404, headers=headers, body=b"{}")
    page = call(leasing, "post", "/v1/datasets/leased/lease", 200, headers=headers, body=b"{}").json()
    objects, url = "/v1/objects/{ticket}", page["shards"][0]["chunks"][0]["url"]
    call(objects, "get", url, 200)
    call(objects, "get", url, 206, headers={"Range": "bytes=4-7"})
    beyond = call(objects, "get", url, 416, headers={"Range": "bytes=99999999-"})
    assert beyond.headers["content-range"].startswith("bytes */")
    assert set(document["components"]["securitySchemes"]) == {"DPoP", "Bearer"}
    assert document["paths"][reading]["post"]["security"] == [{"DPoP": []}, {"Bearer": []}]
    for path in ("/healthz", "/readyz"):
        assert "security" not in document["paths"][path]["get"]
