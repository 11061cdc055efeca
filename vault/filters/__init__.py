"""Row filters: parsed from SQL text into a small tree of our own, bound to a schema, and run over Arrow."""

from vault.filters.bound import BoundFilter, bind
from vault.filters.parse import parse
from vault.filters.statistics import ColumnStats, collect_stats, stats_from_json, stats_to_json
from vault.filters.tree import Filter

__all__ = [
    "BoundFilter",
    "ColumnStats",
    "Filter",
    "bind",
    "collect_stats",
    "parse",
    "stats_from_json",
    "stats_to_json",
]
