"""Asking for keys where only rows were granted."""

import json

import pytest

from tests.attacks.hostile.place import Hostile, problem, said
from vault.wire import LeasePage


def test_a_lease_that_was_granted_works(hostile: Hostile) -> None:
    """The attacks below are refused for what they are."""
    assert len(LeasePage.parse(hostile.lease({}).json()).groups) == 2


@pytest.mark.parametrize(
    "body", [{}, {"columns": ["id"]}, {"columns": ["prompt", "author"]}, {"page_bytes": 1}, {"direct": False}]
)
@pytest.mark.parametrize("name", ["evals", "shared", "secret", "no-such-dataset"])
def test_a_grant_of_rows_hands_out_no_key(hostile: Hostile, name: str, body: dict[str, object]) -> None:
    """With a filter or a mask or without, another vendor's or nobody's: one answer for all."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.lease(body, name))


def test_naming_the_grant_does_not_help(hostile: Hostile) -> None:
    """A grant is what was signed: neither its id nor another dataset's changes how it is delivered."""
    grants = {state.grant.dataset_name: state.grant.id for state in hostile.lab.vault.grants("acme")}
    for name in ("evals", "shared"):
        for grant in grants.values():
            hostile.looks_like_nothing(hostile.lease({"grant": grant}, name))


@pytest.mark.parametrize("key", ["lease", "delivery", "where", "limit", "compression", "masks"])
def test_a_request_does_not_say_how_it_is_delivered(hostile: Hostile, key: str) -> None:
    """What a lease has no room for is refused, and not passed over; a read cannot become one."""
    problem(hostile.lease({key: "lease"}), 400)
    if key in {"lease", "delivery", "masks"}:
        problem(hostile.read({key: "lease"}), 400)


def test_a_listing_holds_no_key(hostile: Hostile) -> None:
    """What is offered says how, and neither the filter nor another vendor's offers."""
    listed = json.loads(hostile.get("/v1/datasets").data)["grants"]
    assert {grant["dataset"]: grant["delivery"] for grant in listed} == {
        "evals": "stream",
        "shared": "stream",
        "leased": "lease",
    }
    assert b"planted" not in hostile.get("/v1/datasets").data
    assert not {"where", "key", "keys", "filter"} & {key for grant in listed for key in grant}


def test_the_columns_of_a_lease_are_held_to_the_grant(hostile: Hostile) -> None:
    """A column that is not granted, by whatever name, is no part of a page."""
    for columns in (["answer"], ["id", "answer"], ["TEXT"], ["*"], ["1"], []):
        answer = hostile.lease({"columns": columns})
        problem(answer, 404)
        assert said(answer).body == hostile.lease({}, "no-such-dataset").data
