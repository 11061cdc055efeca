"""Ways to run many independent tasks: a thin map over planned work."""

from vault.engines.local import LocalEngine

__all__ = ["LocalEngine"]
