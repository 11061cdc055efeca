"""``make demo-cluster``: the demo's story out of one machine, on servers that packages bring, all on loopback.

SeaweedFS for S3, PostgreSQL for the catalog, OpenBao for the KMS, with the roles and policies of
docs/how-to/deploy-on-premises.md, and two brokers that are told everything by their environment, behind a balancer.
Everything is ended by its own process id, whatever happens, and what the servers held is gone with them.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import urllib3
from sqlalchemy.engine import make_url

from tests.support.bare import bare_broker
from tests.support.brokers import running_broker
from tests.support.deployed import Cluster, cluster, spoken_of
from tests.support.relay import Balancer
from vault import client
from vault.errors import VaultError
from vault.owner import Vault
from vault_cli.demo import Stage, Story, humaneval, make_room, play

_VENDORS = ("acme", "globex")
_LAB_POLICY = """
path "{mount}/keys/*"      {{ capabilities = ["create", "read", "update"] }}
path "{mount}/encrypt/*"   {{ capabilities = ["create", "update"] }}
path "{mount}/decrypt/*"   {{ capabilities = ["update"] }}
path "{mount}/config/keys" {{ capabilities = ["read", "update"] }}
"""


class Brokers:
    """Two of them, and the balancer before them."""

    def __init__(self, servers: Cluster, folder: Path) -> None:
        self._servers = servers
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._balancer = Balancer([])

    @contextmanager
    def running(self, story: Story, lab: Vault) -> Iterator[str]:
        """Their one address."""
        policy = "\n".join(_printed("kms", "policy", "--vendor", name, "--vault", lab.folder) for name in _VENDORS)
        told = {"BAO_TOKEN": self._servers.bao.token_for(policy), "DSVAULT_CATALOG": _broker_of_database(lab)}
        with ExitStack() as stack:
            balancer = stack.enter_context(self._balancer)
            for number in (1, 2):
                place = self._folder / f"broker-{number}"
                found = bare_broker(lab.folder, place)
                environment = {**found, **told, "DSVAULT_SERVE_ENDPOINT": balancer.url}
                url, process = stack.enter_context(
                    running_broker(place, environment=environment, log=self._folder / f"broker-{number}.log")
                )
                balancer.targets.append(url)
                self._processes[url] = process
            ready = [urllib3.request("GET", f"{url}/readyz").status == 200 for url in balancer.targets]
            names = ", ".join(balancer.targets)
            story.check(all(ready), "two brokers start behind a balancer, from the environment alone", names)
            yield balancer.url

    def one_dies(self, story: Story, folder: Path, lab: Vault) -> None:
        """Kill the one that is next, while the vendors have work to do."""
        both = len([count for count in self._balancer.taken.values() if count]) == 2
        counts = ", ".join(f"{url} {count}" for url, count in self._balancer.taken.items())
        story.check(both, "both brokers were asked", f"connections: {counts}")
        url, process = next(iter(self._processes.items()))
        process.kill()
        process.wait()
        expected = lab.scan("humaneval", columns=["task_id", "prompt"]).read_all()
        profile = folder / "acme.json"
        got = [client.connect(profile).dataset("humaneval").to_arrow(columns=["task_id", "prompt"]) for _ in range(2)]
        same = all(each.equals(expected) for each in got)
        story.check(same, f"the broker at {url} is killed (-9), and acme reads on", "twice the same rows")


def _printed(*arguments: "str | Path") -> str:
    command = [sys.executable, "-m", "vault_cli.main", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _broker_of_database(lab: Vault) -> str:
    """Run the SQL of the roles, make a user of the brokers', and return the catalog's URL for it."""
    catalog = make_url(lab.parts.catalog.url)
    with psycopg.connect(
        catalog.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
    ) as found:
        found.execute(_printed("catalog", "roles", "--vault", lab.folder).encode())
        found.execute("CREATE USER demo_broker IN ROLE dsvault_broker")
    return catalog.set(username="demo_broker").render_as_string(hide_password=False)


def main() -> int:
    """Play it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path(".demo-cluster"))
    folder = parser.parse_args().dir
    started = time.monotonic()
    try:
        make_room(folder)
        with cluster() as servers, spoken_of(servers):
            places = servers.places()
            mount = places["kms"].rpartition("/")[2]
            # The lab has no more than its policy allows; the server's root token makes policies and tokens.
            os.environ["BAO_TOKEN"] = servers.bao.token_for(_LAB_POLICY.format(mount=mount))
            up = time.monotonic() - started
            print(f"dsvault demo out of one machine: HumanEval in {folder}\n")
            print(f"  servers, up in {up:.1f} s: SeaweedFS {servers.seaweed.url}, PostgreSQL 127.0.0.1:"
                  f"{servers.postgres.port}, OpenBao {servers.bao.address}\n")  # fmt: skip
            brokers = Brokers(servers, folder)
            story = Story(quiet=False)
            play(story, folder, humaneval(), Stage(brokers.running, meanwhile=brokers.one_dies, **places))
    except VaultError as error:
        print(f"dsvault: {error}", file=sys.stderr)
        return 1
    print(f"\nAll of it on S3, PostgreSQL and OpenBao, in {time.monotonic() - started:.1f} s; the servers are ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
