"""Going on from a place in somebody else's read."""

from tests.attacks.hostile.place import Hostile, ids, problem


def test_a_cursor_of_ones_own_goes_on(hostile: Hostile) -> None:
    """The attacks below are refused for whose the cursor is: one's own is taken."""
    cursor = hostile.cursor(limit=3)
    assert ids(hostile.read({"limit": 3, "cursor": cursor}, "shared")) == []


def test_another_vendors_cursor_opens_nothing(hostile: Hostile) -> None:
    """Both may read the very same rows; the place in one's read is still nothing to the other, either way round."""
    for own, other, name in ((hostile.acme, hostile.globex, "acme"), (hostile.globex, hostile.acme, "globex")):
        cursor = hostile.cursor(by=other)
        with hostile.recorded("InvalidInput", vendor=name):
            detail = problem(hostile.read({"cursor": cursor}, "shared", own), 400)["detail"]
        assert detail.startswith("cursor:")


def test_anothers_cursor_looks_like_an_invented_one(hostile: Hostile) -> None:
    """Whether a cursor is somebody's does not show, nor whether it is of a dataset that is hidden."""
    import base64
    import os

    from vault.cursors import CURSOR_BYTES

    invented = base64.b64encode(os.urandom(CURSOR_BYTES)).decode()
    theirs, hidden = hostile.cursor(by=hostile.globex), hostile.cursor("secret", hostile.globex)
    answers = {hostile.read({"cursor": each}, "shared").data for each in (invented, theirs, hidden)}
    assert len(answers) == 1
    hostile.looks_like_nothing(hostile.read({"cursor": hidden}, "secret"))


def test_another_vendors_lease_goes_on_for_nobody_else(hostile: Hostile) -> None:
    """The same for the pages of a lease."""
    import json

    page = json.loads(hostile.lease({"page_bytes": 1}, by=hostile.globex).data)
    place = page["shards"][0]["cursor"]
    problem(hostile.lease({"cursor": place}), 400)
    assert hostile.lease({"cursor": place}, by=hostile.globex).status == 200
