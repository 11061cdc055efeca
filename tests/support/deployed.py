"""Out of one machine, on one machine: SeaweedFS for S3, PostgreSQL and OpenBao, and vaults that live on them."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.support.postgres import Postgres, start
from tests.support.servers import OpenBao, SeaweedFS, openbao, seaweedfs
from vault.encoding import new_id

__all__ = ["Cluster", "cluster", "spoken_of"]


@dataclass(frozen=True)
class Cluster:
    """The three servers, which several vaults may use at once."""

    seaweed: SeaweedFS
    postgres: Postgres
    bao: OpenBao
    bucket: str

    def environment(self) -> dict[str, str]:
        """What a process of the lab's has to be told beside the vault's own settings."""
        return {**self.seaweed.environment(), "BAO_TOKEN": self.bao.token}

    def places(self) -> dict[str, str]:
        """Where a new vault's parts go: a prefix of the bucket, a database and a transit engine of its own."""
        return {
            # SeaweedFS sets volumes aside for each bucket, and has few of them.
            "store": f"s3://{self.bucket}/{new_id()[:12]}",
            "catalog": self.postgres.database(),
            "kms": self.bao.uri(self.bao.mount()),
        }


@contextmanager
def cluster() -> Iterator[Cluster]:
    """All three, ended by their own process ids."""
    with ExitStack() as stack:
        bao, seaweed, starting = stack.enter_context(openbao()), stack.enter_context(seaweedfs()), start()
        stack.callback(next, starting, None)
        yield Cluster(seaweed, next(starting), bao, seaweed.bucket())


@contextmanager
def spoken_of(servers: Cluster) -> Iterator[None]:
    """Let this process, and those that it starts, know the servers."""
    told = servers.environment()
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
