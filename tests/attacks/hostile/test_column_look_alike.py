"""Asking for columns by names that look like theirs."""

from urllib.parse import quote

import pytest

from tests.attacks.hostile.place import Hostile, problem

_LOOK_ALIKES = [
    "аnswer",  # a Cyrillic letter
    "ａｎｓｗｅｒ",  # full width
    "an\u200bswer",  # a space of no width
    "answer\ufeff",
    "answe\u0155",
    "an\u017fwer",  # the long s, which folds into s
    "answer ",
    " answer",
    "answer\t",
    "answer\n",
    "answer\x00",
    "answer\x00id",
    "id\x00answer",
    "\u202eresna",  # written from right to left
    "ａnswer",
    # Of columns that are granted, too: what is folded for them would be folded for others.
    "ıd",  # without its dot
    "ｉｄ",
    "ⅰd",  # a Roman numeral
    "prompt ",
    " prompt",
    "prompt\u200b",
    "pro\u00admpt",
]


@pytest.mark.parametrize("name", _LOOK_ALIKES)
def test_a_look_alike_is_another_name(hostile: Hostile, name: str) -> None:
    """Names are compared code point by code point: nothing is folded, trimmed, cut or made compatible."""
    with hostile.recorded("NotGranted") as entries:
        hostile.looks_like_nothing(hostile.read({"columns": [name]}))
    assert entries[0]["columns"] == [name]


@pytest.mark.parametrize("name", [name for name in _LOOK_ALIKES if "\n" not in name and "\x00" not in name])
def test_a_look_alike_in_a_predicate(hostile: Hostile, name: str) -> None:
    """The same for quoted names in predicates."""
    with hostile.recorded("NotGranted"):
        hostile.looks_like_nothing(hostile.read({"where": f"\"{name}\" LIKE '%'"}))


@pytest.mark.parametrize("name", ["еvals", "ｓecret", "secret\u200b", "evals\x00", "%C0%AEevals", "evals/../secret"])
def test_a_look_alike_of_a_dataset(hostile: Hostile, name: str) -> None:
    """The same for datasets; what is no path segment any more is no route."""
    problem(hostile.read({}, name=quote(name, safe="")), 404, 405)


def test_halves_of_a_character_are_no_name(hostile: Hostile) -> None:
    """Text that is no Unicode is refused as such."""
    problem(hostile.read(b'{"columns": ["\\ud800"]}'), 400)
    problem(hostile.read(b'{"columns": ["\xff"]}'), 400)
