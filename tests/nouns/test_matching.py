"""Matching moments with spans: no way leaves fewer over, and of equal ways the nearest go together."""

from hypothesis import given
from hypothesis import strategies as st

from vault.matching import unmatched

_moments = st.lists(st.integers(0, 40).map(float), max_size=6)
_spans = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 5)).map(lambda s: (float(s[0]), float(s[0] + s[1]))), max_size=6
)


def _most(moments: list[float], spans: list[tuple[float, float]], slack: float) -> int:
    """The most that can be matched, by trying everything."""
    if not moments:
        return 0
    first, *others = moments
    found = _most(others, spans, slack)
    for index, (begins, ends) in enumerate(spans):
        if begins - slack <= first <= ends + slack:
            found = max(found, 1 + _most(others, spans[:index] + spans[index + 1 :], slack))
    return found


@given(_moments, _spans, st.sampled_from([0.0, 1.0, 3.0, 12.0, 50.0]))
def test_no_way_of_matching_leaves_fewer_over(
    moments: list[float], spans: list[tuple[float, float]], slack: float
) -> None:
    """As many are matched as trying everything finds, and what is left over on either side adds up."""
    over, spare = unmatched(moments, spans, slack)
    assert len(moments) - len(over) == len(spans) - len(spare) == _most(moments, spans, slack)
    assert over == sorted(set(over))
    assert spare == sorted(set(spare))


def test_the_one_further_off_is_left_over() -> None:
    """Of two moments for one span, the one that it was made for is matched, whichever came first."""
    assert unmatched([100.0, 130.0], [(100.0, 100.05)], 121.0) == ([1], [])
    assert unmatched([70.0, 100.0], [(100.0, 100.05)], 121.0) == ([0], [])


def test_nearness_never_costs_a_match() -> None:
    """The moment that is nearest to a span leaves it to another that has no other, and takes a further one itself."""
    assert unmatched([0.0, 100.0], [(100.0, 100.0), (210.0, 210.0)], 121.0) == ([], [])


def test_what_is_out_of_reach_explains_nothing() -> None:
    """A span a second beyond the slack is left over, and so is the moment."""
    assert unmatched([0.0], [(122.0, 123.0)], 121.0) == ([0], [0])
    assert unmatched([], [], 1.0) == ([], [])
