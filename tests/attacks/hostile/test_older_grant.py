"""Holding on to what an older grant gave."""

import json
import time

import urllib3

from tests.attacks.hostile.place import Hostile, problem, said
from vault.wire import Token


def _grant(hostile: Hostile, vendor: str, columns: list[str], dataset: str = "evals", **terms: str) -> str:
    return str(hostile.lab.vault.grant(vendor, dataset, columns, **terms).id)  # type: ignore[arg-type]


def test_a_narrower_grant_in_the_place_of_a_wider_one(hostile: Hostile) -> None:
    """The id and the cursors of the grant before, and the columns that it had, are worth nothing any more."""
    token = hostile.newcomer("narrowed")
    wide = _grant(hostile, "narrowed", ["id", "prompt", "answer"])
    assert b"planted answer 7" in hostile.read({"columns": ["answer"]}, by=token).data
    cursors = [
        hostile.cursor("evals", token, **body) for body in ({}, {"columns": ["id", "answer"]}, {"columns": ["id"]})
    ]
    hostile.lab.vault.revoke(wide)
    narrow = _grant(hostile, "narrowed", ["id"])
    time.sleep(1.1)
    for body in (
        {"grant": wide},
        {"grant": wide, "columns": ["id"]},
        {"columns": ["answer"]},
        {"grant": narrow, "columns": ["answer"]},
    ):
        with hostile.recorded("NotGranted", vendor="narrowed"):
            hostile.looks_like_nothing(hostile.read(body, by=token))
    for cursor in cursors:
        problem(hostile.read({"cursor": cursor}, by=token), 400)
        hostile.looks_like_nothing(hostile.read({"cursor": cursor, "columns": ["id", "answer"]}, by=token))
    # The same request under the new grant is still another one: its cursor was of the old.
    problem(hostile.read({"cursor": cursors[2], "columns": ["id"]}, by=token), 400)
    assert hostile.read({"columns": ["id"]}, by=token).status == 200


def test_a_row_filter_that_came_later(hostile: Hostile) -> None:
    """A cursor of the grant without a filter does not go on past it."""
    token = hostile.newcomer("filtered")
    wide = _grant(hostile, "filtered", ["id", "prompt"])
    cursor = hostile.cursor("evals", token, limit=1)
    hostile.lab.vault.revoke(wide)
    _grant(hostile, "filtered", ["id", "prompt"], where="lang = 'planted-en'")
    time.sleep(1.1)
    problem(hostile.read({"cursor": cursor, "limit": 1}, by=token), 400)
    assert b"planted" not in hostile.read({}, by=token).data


def _page(hostile: Hostile, token: Token) -> dict[str, str]:
    document = json.loads(hostile.lease({"direct": False}, "secret", token).data)
    return {"object": document["shards"][0]["chunks"][0]["url"], "next": document["shards"][0]["cursor"]}


def test_addresses_and_pages_of_an_older_lease(hostile: Hostile) -> None:
    """A lease that was revoked, and granted again as a stream, hands out no ciphertext and no page any more."""
    token = hostile.newcomer("leaser")
    old = _grant(hostile, "leaser", ["id", "answer"], "secret", delivery="lease")
    page = _page(hostile, token)
    assert hostile.get(page["object"], {}).status == 200
    hostile.lab.vault.revoke(old)
    _grant(hostile, "leaser", ["id"], "secret")
    time.sleep(1.1)
    problem(hostile.get(page["object"], {}), 404)
    hostile.looks_like_nothing(hostile.lease({"cursor": page["next"]}, "secret", token))
    hostile.looks_like_nothing(hostile.lease({}, "secret", token))


def test_a_grant_that_ended_looks_like_one_that_never_was(hostile: Hostile) -> None:
    """Revoked, another vendor's, and invented ids of grants get one answer."""
    token = hostile.newcomer("revoked")
    old = _grant(hostile, "revoked", ["id"])
    hostile.lab.vault.revoke(old)
    (theirs,) = (state.grant.id for state in hostile.lab.vault.grants("globex") if state.grant.dataset_name == "secret")
    for grant in (old, theirs, "f" * 32, "0" * 32, "", old.upper(), old[:-1], f" {old}"):
        hostile.looks_like_nothing(hostile.read({"grant": grant}, by=token))
        hostile.looks_like_nothing(hostile.read({"grant": grant}, "secret", token))


def test_a_credential_that_ended(hostile: Hostile) -> None:
    """A revoked credential is refused like one that never was, whatever grants its vendor has."""
    token = hostile.newcomer("ended")
    _grant(hostile, "ended", ["id"])
    assert hostile.read({}, by=token).status == 200
    hostile.lab.vault.revoke_credential(token.credential)
    time.sleep(1.1)

    def tried(by: Token) -> urllib3.BaseHTTPResponse:
        return hostile.read({}, by=by)

    with hostile.recorded("credential ended", vendor="ended"):
        answer = tried(token)
    problem(answer, 401)
    assert said(answer) == said(tried(Token("0" * 32, token.secret)))


def test_a_frozen_vendor_goes_on_with_nothing(hostile: Hostile) -> None:
    """Neither with a read that it had begun, nor with a page, nor with an address of ciphertext."""
    token = hostile.newcomer("frozen")
    _grant(hostile, "frozen", ["id", "answer"], "secret", delivery="lease")
    cursor, page = hostile.cursor("secret", token), _page(hostile, token)
    hostile.lab.vault.freeze("frozen")
    time.sleep(1.1)
    for answer in (
        hostile.read({"cursor": cursor}, "secret", token),
        hostile.read({}, "no-such-dataset", token),
        hostile.lease({"cursor": page["next"]}, "secret", token),
        hostile.get(page["object"], {}),
    ):
        problem(answer, 403)
