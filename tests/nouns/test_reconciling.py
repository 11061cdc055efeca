"""What explains an unwrap at the ends of the KMS's log, where calls and entries are cut off from each other."""

from datetime import UTC, datetime, timedelta

from vault.kms.calls import Call, Told
from vault.model import KeyScope
from vault.reconcile import Announced, _match

_SCOPE = KeyScope("a0" * 16, "b1" * 16, "c2" * 16, 1)
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def _call(seconds: float) -> Call:
    return Call(_BEGAN + timedelta(seconds=seconds), f"at-{seconds}", "decrypt", "key", _SCOPE, True, {})


def _item(seconds: float) -> Announced:
    since = _BEGAN + timedelta(seconds=seconds)
    return Announced(int(seconds), _SCOPE, since, since + timedelta(milliseconds=50), "process")


def _left(calls: list[float], items: list[float], first: float, last: float) -> tuple[list[str], int]:
    told = Told(first=_BEGAN + timedelta(seconds=first), last=_BEGAN + timedelta(seconds=last))
    over, _, in_doubt = _match(
        [_call(each) for each in calls], [_item(each) for each in items], timedelta(minutes=2), told
    )
    return [call.id for call in over], in_doubt


def test_an_entry_from_behind_the_file_does_not_explain_an_unwrap_at_noon() -> None:
    """Along a key that is opened each minute, the first entry behind the file's end hides no unwrap of before."""
    honest = [60.0 * minute for minute in range(1440)]
    over, in_doubt = _left([*honest, 43_210.0], [*honest, 86_400.0], 0.0, honest[-1])
    assert (over, in_doubt) == (["at-43210.0"], 1)


def test_an_entry_from_before_the_file_does_not_explain_an_unwrap_at_noon() -> None:
    """Nor does the last entry before its beginning."""
    honest = [60.0 * minute for minute in range(1, 1440)]
    over, in_doubt = _left([*honest, 43_210.0], [0.0, *honest], 60.0, honest[-1])
    assert (over, in_doubt) == (["at-43210.0"], 1)


def test_a_call_at_the_very_end_may_have_its_entry_behind_it() -> None:
    """A KMS's log may have whole seconds: an entry that begins within one of the last line explains it."""
    assert _left([10.0, 20.0], [10.0, 20.4], 10.0, 20.0) == ([], 0)


def test_without_entries_beyond_the_file_nothing_is_in_doubt() -> None:
    """One unwrap too many is just that where no entry beyond the file could have hidden it."""
    assert _left([10.0, 15.0, 20.0], [10.0, 20.0], 10.0, 20.0) == (["at-15.0"], 0)
