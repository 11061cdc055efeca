"""Row filters: parsed from SQL text into a small tree of our own, bound to a schema, and run over Arrow."""

from vault.filters.bound import BoundFilter, bind
from vault.filters.hints import hinted
from vault.filters.parse import parse
from vault.filters.statistics import ShardStatistics, collect_stats
from vault.filters.tree import Filter

__all__ = [
    "BoundFilter",
    "Filter",
    "ShardStatistics",
    "bind",
    "collect_stats",
    "hinted",
    "parse",
]
