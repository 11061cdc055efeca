"""How datasets are named as tables, page by page, and what a request may ask for beside."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.moulds import Anew
from tests.support.sharing import Caller, caller, lines
from tests.support.tables import rows
from vault.wire import SharedTable, grant_schema


@pytest.fixture(scope="module")
def acme(moulds: Anew, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A vendor with two grants on ``evals``, and one each on four datasets with dots in their names."""
    folder = tmp_path_factory.mktemp("names") / "lab"
    lab = Lab(folder, moulds.vault("vendors", folder, None))
    for name in ("a.b0", "a.b1", "a.b2", "a.b3", "evals"):
        lab.vault.publish(name, rows(3), key="id")
        lab.vault.grant("acme", name, ["id"])
    lab.vault.grant("acme", "evals", ["id", "prompt"])
    lab.vault.publish("secret", rows(3), key="id")
    with broker(folder) as endpoint:
        yield caller(lab, endpoint)


def _all(acme: Caller, path: str, most: int) -> list[dict[str, str]]:
    found, token = [], None
    while True:
        fields = {"maxResults": str(most), **({"pageToken": token} if token else {})}
        answer = acme.get(path, fields=fields).json()
        assert len(answer["items"]) <= most
        found += answer["items"]
        token = answer.get("nextPageToken")
        if not token:
            return found


def test_a_dataset_with_two_grants_is_two_tables(acme: Caller) -> None:
    """A request runs under one grant, and so does a table: each is in a schema of its own, and none in the default one."""
    tables = acme.get("/shares/dsvault/all-tables").json()["items"]
    mine = [table for table in tables if table["name"] == "evals"]
    assert len(mine) == 2
    assert all(table["schema"].startswith("grant-") for table in mine)
    counts = set()
    for table in mine:
        answer = acme.get(f"/shares/dsvault/schemas/{table['schema']}/tables/evals/metadata")
        counts.add(lines(answer)[1]["metaData"]["schemaString"].count('"name"'))
    assert counts == {1, 2}
    ambiguous = acme.query("default.evals")
    assert (ambiguous.status, ambiguous.json()["errorCode"]) == (409, "AMBIGUOUS")


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_listings_come_page_by_page(acme: Caller, most: int) -> None:
    """Whatever a page holds, all of them together are everything, once, in order."""
    every = acme.get("/shares/dsvault/all-tables").json()["items"]
    assert len(every) == 6
    assert _all(acme, "/shares/dsvault/all-tables", most) == every
    assert _all(acme, "/shares/dsvault/schemas/default/tables", most) == every[:4]
    assert [each["name"] for each in _all(acme, "/shares/dsvault/schemas", most)] == sorted(
        {each["schema"] for each in every}
    )
    assert _all(acme, "/shares", most) == [{"name": "dsvault"}]


def test_a_page_of_nothing_says_that_there_is_more(acme: Caller) -> None:
    """As the protocol has it of ``maxResults=0``."""
    answer = acme.get("/shares/dsvault/all-tables", fields={"maxResults": "0"}).json()
    assert answer["items"] == []
    more = acme.get("/shares/dsvault/all-tables", fields={"pageToken": answer["nextPageToken"]}).json()
    assert len(more["items"]) == 6


def test_a_token_of_another_listing_is_refused(acme: Caller) -> None:
    """And whatever else is none, in a sentence that names the option."""
    token = acme.get("/shares/dsvault/schemas", fields={"maxResults": "1"}).json()["nextPageToken"]
    for wrong in (token, "x", "W10=", token[:-3], "é"):
        answer = acme.get("/shares/dsvault/all-tables", fields={"pageToken": wrong})
        assert (answer.status, answer.json()["message"]) == (400, "pageToken: it is not one of this listing")
    for wrong in ("-1", "x", "2147483648"):
        assert acme.get("/shares", fields={"maxResults": wrong}).status == 400


def test_names_have_no_case(acme: Caller) -> None:
    """As the protocol has it."""
    assert acme.get("/shares/DSVault").json() == {"share": {"name": "dsvault"}}
    assert acme.get("/shares/DSVAULT/schemas/Default/tables/A~B1/version").headers["delta-table-version"] == "1"


@pytest.mark.parametrize(
    "path",
    [
        "/shares/other",
        "/shares/other/schemas",
        "/shares/other/all-tables",
        "/shares/dsvault/schemas/other/tables",
        "/shares/dsvault/schemas/default/tables/a.b1/version",
        "/shares/dsvault/schemas/default/tables/nothing/metadata",
        "/shares/dsvault/schemas/grant-x/tables/evals/metadata",
        f"/shares/dsvault/schemas/{'0' * 32}/tables/evals/metadata",
        "/shares/dsvault/schemas/default/tables/nothing/changes",
    ],
)
def test_what_is_not_there_is_not_granted(acme: Caller, path: str) -> None:
    """One answer for all of it."""
    answer = acme.get(path)
    assert answer.status == 404
    assert answer.json() == {
        "errorCode": "NOT_GRANTED",
        "message": "no dataset or column of that name is granted to you",
    }


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"limitHint": -1}, {}, 400),
        ({"limitHint": "many"}, {}, 400),
        ({"predicateHints": "id = 1"}, {}, 400),
        ({"startingVersion": 1}, {}, 400),
        ({"timestamp": "yesterday"}, {}, 400),
        ({"version": 2}, {}, 400),
        ([], {}, 400),
        ({}, {"Content-Type": "text/plain"}, 415),
        ({}, {"delta-sharing-capabilities": "responseformat=delta"}, 400),
        ({}, {"delta-sharing-capabilities": "responseformat=delta,parquet;readerfeatures=x"}, 200),
        ({"maxFiles": 3, "somethingNew": {"a": 1}, "predicateHints": ["odd ("]}, {}, 200),
    ],
)
def test_what_is_asked_wrongly_is_refused(acme: Caller, body: object, headers: dict[str, str], status: int) -> None:
    """In the protocol's form; what the protocol has beside what is here is passed over."""
    answer = acme.query("default.a~b0", body or None if body != [] else [[]], **headers)
    assert answer.status == status
    if status != 200:
        assert set(answer.json()) == {"errorCode", "message"}


def test_other_errors_have_the_protocols_form(acme: Caller) -> None:
    """Below the prefix alone: a page that is not there, a method, an address that is too long, no credential."""
    assert set(acme.get("/nothing").json()) == {"errorCode", "message"}
    assert set(acme.get("/" + "x" * 5000).json()) == {"errorCode", "message"}
    missing = acme.get("/shares", headers={"Authorization": ""})
    assert (missing.status, missing.json()["errorCode"]) == (401, "UNAUTHENTICATED")
    assert acme.get("/../v1/nothing").json()["type"] == "urn:dsvault:not-found"


_TABLE = "/shares/dsvault/schemas/default/tables"


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("/shares", "GET"),
        ("/shares/{}", "GET"),
        ("/shares/{}/schemas", "GET"),
        ("/shares/{}/all-tables", "GET"),
        ("/shares/dsvault/schemas/{}/tables", "GET"),
        (_TABLE + "/{}/version", "GET"),
        (_TABLE + "/{}/metadata", "GET"),
        (_TABLE + "/{}/changes", "GET"),
        (_TABLE + "/{}/query", "POST"),
        ("/files/{}", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_taken_is_refused_as_that(acme: Caller, path: str, taken: str) -> None:
    """With what is taken there (RFC 9110 section 15.5.6), whatever the body, and alike for names that there are not."""
    (file, *_) = acme.files("default.a~b0")
    there = {"/files/{}": file["url"].rpartition("/")[2], "/shares/dsvault/schemas/{}/tables": "default"}
    names = [there.get(path, "a~b0" if _TABLE in path else "dsvault"), "nothing", "secret"]
    bodies: list[dict[str, Any]] = [{}, {"body": b"x", "headers": {"Content-Type": "text/plain"}}, {"body": b"{}"}]
    for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - set(taken.split(", ")):
        said = set()
        for name in names:
            for more in bodies if method in {"POST", "PUT"} else bodies[:1]:
                for headers in (acme.headers, {}):
                    asked = {**more, "headers": {**headers, **more.get("headers", {})}}
                    url = f"{acme.endpoint}/delta-sharing{path.format(name)}"
                    answer = urllib3.request(method, url, retries=False, timeout=60, **asked)
                    said.add((answer.status, answer.headers["allow"], answer.data))
        assert len(said) == 1, said
        ((status, allowed, data),) = said
        assert (status, allowed) == (405, taken), method
        assert method == "HEAD" or json.loads(data)["errorCode"] == "INVALID"


@pytest.mark.parametrize("name", ["a", "a.b", "a-b_c.d..e", "0", "x" * 63])
def test_a_tables_name_is_that_of_one_dataset(name: str) -> None:
    """Every name comes back, and holds no dot."""
    table = SharedTable.of(name)
    assert table.dataset == name
    assert "." not in table.name
    assert SharedTable.named("dsvault", table.schema, table.name) == table
    mine = SharedTable.of(name, "5" * 32)
    assert (mine.grant, mine.schema) == ("5" * 32, grant_schema("5" * 32))
