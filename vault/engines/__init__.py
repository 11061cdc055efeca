"""Ways to run many independent tasks: a thin map over planned work."""

from vault.engines.cluster import RayEngine
from vault.engines.local import LocalEngine
from vault.engines.protocol import Workers

__all__ = ["LocalEngine", "RayEngine", "Workers"]
