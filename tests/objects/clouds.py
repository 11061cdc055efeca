"""Emulators of GCS and Azure, where they are installed: `make test-clouds` brings them and says where they are."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from tests.support.servers import free_port
from vault.encoding import new_id

_PROGRAMS = {"gcs": "FAKE_GCS", "azure": "AZURITE"}
#: The stores whose emulator is there.
CLOUDS = [kind for kind, name in _PROGRAMS.items() if os.environ.get(name)]
if "gcs" in CLOUDS:
    # Or gcsfs asks Google, under Google's credentials, what kind of bucket each is. It is read when gcsfs is imported.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
#: The account that Azurite has for everybody, as its documentation gives it.
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def cloud_store(kind: str, request: pytest.FixtureRequest, patch: pytest.MonkeyPatch) -> str:
    """The URL of a new store on the emulator of a kind, for which the environment is set."""
    url = str(request.getfixturevalue(kind))
    name = f"tests-{new_id()[:12]}"
    if kind == "gcs":
        answer = urllib3.request("POST", f"{url}/storage/v1/b?project=tests", json={"name": name}, timeout=10)
        assert answer.status == 200, answer.data
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        return f"gs://{name}/vault"
    import fsspec

    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_ACCOUNT_KEY};BlobEndpoint={url}/{_ACCOUNT};"
    )
    patch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    fsspec.filesystem("az").mkdir(name)
    return f"az://{name}/vault"


@contextmanager
def emulator(kind: str) -> Iterator[str]:
    """The URL of a running emulator."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix=f"dsvault-{kind}-") as folder:
        command = {
            "gcs": [
                *("-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"),
                *("-public-host", f"127.0.0.1:{port}", "-external-url", f"http://127.0.0.1:{port}"),
            ],
            "azure": [
                *("--blobHost", "127.0.0.1", "--blobPort", str(port)),
                *("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"),
            ],
        }[kind]
        program = os.environ[_PROGRAMS[kind]]
        assert Path(program).exists(), f"{_PROGRAMS[kind]} names no file"
        process = subprocess.Popen(
            [program, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        try:
            url = f"http://127.0.0.1:{port}"
            ends = time.monotonic() + 60
            while True:
                assert process.poll() is None, "the emulator ended at once"
                assert time.monotonic() < ends, "the emulator did not come up within a minute"
                try:
                    urllib3.request("GET", url, timeout=2, retries=False)
                    break
                except urllib3.exceptions.HTTPError:
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)
