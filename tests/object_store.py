"""Object stores on loopback that speak S3 or Google's protocol over HTTP, as the clouds' do, and forget everything at their end."""

import http.client
import subprocess
import sys
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

BUCKET = "studies"


class ObjectStore:
    def __init__(self, server: ThreadedMotoServer):
        self._server = server
        host, port = server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self.query = f"endpoint_override={host}:{port}&scheme=http"
        self._ask("POST", "moto-api/reset")  # servers of one process share what they hold
        self._ask("PUT", BUCKET)

    def url(self, prefix: str = "out", bucket: str = BUCKET) -> str:
        return f"s3://{bucket}/{prefix}?{self.query}"

    def _ask(self, method: str, path: str) -> None:
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=30)
        connection.request(method, f"/{path}")
        connection.getresponse().read()
        connection.close()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Running, with one bucket; the environment holds credentials that it takes."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # no credentials are looked for elsewhere
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield ObjectStore(server)
    finally:
        server.stop()


class GoogleStore:
    """In a process of its own: pyarrow may keep Python's lock while it waits for an answer."""

    SERVER = f"""
import sys
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="{BUCKET}")
server.start()
print(server._api._httpd.server_port, flush=True)
sys.stdin.read()
server.stop()
"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        self.query = f"endpoint_override=127.0.0.1:{self._process.stdout.readline().strip()}&scheme=http"

    def url(self, prefix: str = "out", bucket: str = BUCKET) -> str:
        return f"gs://anonymous@{bucket}/{prefix}?{self.query}"

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


@pytest.fixture
def google_store() -> Iterator[GoogleStore]:
    """Running, with one bucket, for everybody."""
    store = GoogleStore()
    try:
        yield store
    finally:
        store.stop()
