"""The access decision as a pure function."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vault.errors import Conflict, Frozen, NotGranted
from vault.filters import parse
from vault.model import Column
from vault.policy import Handed, Offer, Request, decide, still_allowed
from vault.trust import Grant, GrantedColumn, VendorHead

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_COLUMNS = {name: Column(f"id-{name}", name, f"group-{name}") for name in "abcf"}


def _grant(identifier: str, columns: str, **changes: object) -> Grant:
    def granted(names: str) -> tuple[GrantedColumn, ...]:
        return tuple(GrantedColumn(f"id-{name}", name, f"group-{name}") for name in names)

    made = Grant(
        id=identifier,
        vault="v",
        vendor="acme",
        vendor_name="acme",
        dataset="d",
        dataset_name="evals",
        columns=granted(columns),
        where=None,
        where_text=None,
        filter_columns=granted("f"),
        versions="latest",
        delivery="stream",
        purpose=None,
        issued=_NOW,
        expires=_NOW + timedelta(hours=1),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def _offer(grant: Grant, present: str = "abcf") -> Offer:
    return Offer(grant, "compartment", 1, {f"id-{name}": _COLUMNS[name] for name in present})


def _head(*grants: Grant, frozen: bool = False) -> VendorHead:
    return VendorHead("acme", 1, "digest", frozen, {grant.id: f"digest-{grant.id}" for grant in grants}, {"c": "x"}, "")


def test_the_only_grant_that_suffices_is_taken() -> None:
    """Of several grants the one that covers all that is asked is the permit's, with its columns in order."""
    first, second = _grant("1", "ab"), _grant("2", "ac")
    permit = decide(
        Request("evals", columns=("c", "a")), "c", _head(first, second), [_offer(first), _offer(second)], _NOW
    )
    assert (permit.grant.id, [column.name for column in permit.columns]) == ("2", ["c", "a"])


def test_two_that_would_each_do_are_ambiguous() -> None:
    """Both would serve column a: refused, naming both; named, one is taken."""
    first, second = _grant("1", "ab"), _grant("2", "ac")
    offers, head = [_offer(first), _offer(second)], _head(first, second)
    with pytest.raises(Conflict, match="1, 2"):
        decide(Request("evals", columns=("a",)), "c", head, offers, _NOW)
    assert decide(Request("evals", grant="1", columns=("a",)), "c", head, offers, _NOW).grant.id == "1"


@pytest.mark.parametrize(
    "request_",
    [
        Request("evals", columns=("b", "c")),
        Request("evals", columns=("f",)),
        Request("evals", columns=("A",)),
        Request("evals", columns=()),
        Request("other"),
        Request("evals", grant="9"),
        Request("evals", columns=("a",), where=parse("f = 1")),
        Request("evals", columns=("a",), where=parse("zzz = 1")),
    ],
)
def test_everything_else_is_refused_alike(request_: Request) -> None:
    """Unknown and forbidden raise the same error with the same words; grants never add up."""
    first, second = _grant("1", "ab"), _grant("2", "ac")
    with pytest.raises(NotGranted, match="^no dataset or column of that name is granted to you$"):
        decide(request_, "c", _head(first, second), [_offer(first), _offer(second)], _NOW)


def test_what_is_not_live_does_not_count() -> None:
    """Unlisted, expired, another vendor's, of an unknown delivery, and a grant whose filter column is gone: none serves."""
    for grant, listed, present in (
        (_grant("1", "a"), False, "abcf"),
        (_grant("1", "a", expires=_NOW), True, "abcf"),
        (_grant("1", "a", vendor="globex"), True, "abcf"),
        (_grant("1", "a", delivery="post"), True, "abcf"),
        (_grant("1", "a"), True, "abc"),
        (_grant("1", "a"), True, "bf"),
    ):
        with pytest.raises(NotGranted):
            decide(Request("evals"), "c", _head(*([grant] if listed else [])), [_offer(grant, present)], _NOW)
    frozen = _grant("1", "a")
    with pytest.raises(Frozen):
        decide(Request("evals"), "c", _head(frozen, frozen=True), [_offer(frozen)], _NOW)


def test_a_permit_ends_with_what_it_rests_on() -> None:
    """Frozen, revoked, replaced, without its credential or past its end, a permit is not allowed any more."""
    grant = _grant("1", "a")
    head = _head(grant)
    permit = decide(Request("evals"), "c", head, [_offer(grant)], _NOW)
    still_allowed(permit.basis, head, _NOW)
    with pytest.raises(Frozen):
        still_allowed(permit.basis, replace(head, frozen=True), _NOW)
    for changed in (replace(head, grants={}), replace(head, grants={"1": "other"}), replace(head, credentials={})):
        with pytest.raises(NotGranted):
            still_allowed(permit.basis, changed, _NOW)
    with pytest.raises(NotGranted):
        still_allowed(permit.basis, head, _NOW + timedelta(hours=1))


def test_only_whole_columns_are_leased() -> None:
    """A lease grant does for a lease and for a stream; a filter, a mask, or a column beside in the same group forbids it."""
    plain = _grant("1", "ab", delivery="lease")
    part = replace(_COLUMNS["a"], fields=(("x",),))
    in_part = replace(plain, columns=(replace(plain.columns[0], fields=part.fields),))
    together = {f"id-{name}": replace(_COLUMNS[name], group="group-a") for name in "abc"} | {"id-f": _COLUMNS["f"]}
    for grant, changes, leases in (
        (plain, {}, True),
        (replace(plain, delivery="stream"), {}, False),
        (replace(plain, where={"id-f": 1}), {}, False),
        (replace(plain, masks={"id-a": "redact"}), {}, False),
        (plain, {"filtered": True}, False),
        (in_part, {"present": {"id-a": part}}, False),
        (plain, {"handed": (Handed(("a",), _NOW),)}, True),
        (plain, {"present": together}, False),
        (replace(plain, columns=_grant("1", "abc").columns), {"present": together}, True),
        (
            replace(plain, columns=_grant("1", "abc").columns),
            {"present": together, "handed": (Handed(None, _NOW), Handed(("a", "b"), _NOW))},
            False,
        ),
    ):
        offer = replace(_offer(grant), **changes)  # type: ignore[arg-type]
        assert offer.leasable is leases
        if leases:
            assert decide(Request("evals", lease=True), "c", _head(grant), [offer], _NOW).grant == grant
        else:
            with pytest.raises(NotGranted):
                decide(Request("evals", lease=True), "c", _head(grant), [offer], _NOW)
