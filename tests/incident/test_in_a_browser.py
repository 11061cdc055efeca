"""A report in a real browser, where there is one: it is drawn and printed, and fetches nothing whatever is in the log."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.exposure.history import VENDORS, History
from vault.audit import Entry, Kind
from vault.incident import report_of

BROWSER = shutil.which("chromium")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium here to look at a report with")


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and what it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def _browse(page: Path, *options: str) -> None:
    assert BROWSER is not None
    subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={page.parent / 'profile'}", *options,
            page.as_uri(),
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


def test_a_report_is_drawn_and_printed_and_fetches_nothing(tmp_path: Path, asked: tuple[str, list[str]]) -> None:
    """Names that are markup for a picture, a frame, a style or a script lead the browser nowhere."""
    address, paths = asked
    told = History(4).run(400)
    hostile = [
        f'"><img src="{address}/a">', f"</title><iframe src='{address}/b'></iframe>",
        f"</style><style>@import url({address}/c);</style>", f"<script>fetch('{address}/d')</script>",
        f"</text></svg><image href='{address}/e'/>", f"<body background='{address}/f'>",
    ]  # fmt: skip
    entries = [*told.entries]
    for name in hostile:
        fields = {"vendor_id": VENDORS["acme"], "credential": name, "reason": name, "address": name, "columns": [name]}
        entries.append((len(entries) + 1, Entry(Kind.REFUSED, told.now, fields)))
    page = tmp_path / "report.html"
    page.write_bytes(report_of(entries, VENDORS["acme"]).html())
    _browse(page, f"--screenshot={tmp_path / 'seen.png'}", "--window-size=1280,1600")
    _browse(page, f"--print-to-pdf={tmp_path / 'printed.pdf'}")
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "printed.pdf").read_bytes().startswith(b"%PDF")
    assert paths == []
    # The same names as markup would have been followed: the browser reaches the server.
    page.write_text(hostile[0])
    _browse(page, f"--screenshot={tmp_path / 'seen.png'}")
    assert paths == ["/a"]
