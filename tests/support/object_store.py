"""A loopback object store for tests: buckets, credentials, and faults on demand."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

KEY_ID, SECRET, TOKEN = "AKIDMARKEDKEYID0001", "marked/Secret+Key=0002", "markedSessionToken0003"
"""Credentials no other text contains."""
MARKED = (KEY_ID, SECRET, TOKEN)


@dataclass(frozen=True)
class ObjectStore:
    """A server with a proxy before it."""

    direct: str
    """Address of the server itself."""
    endpoint: str
    """Address of the proxy, which tests tell everything else to use."""

    @property
    def options(self) -> dict[str, str]:
        """Storage options that reach the store through the proxy."""
        return {
            "aws_access_key_id": KEY_ID,
            "aws_secret_access_key": SECRET,
            "aws_session_token": TOKEN,
            "aws_endpoint": self.endpoint,
            "aws_region": "us-east-1",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": TOKEN,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "OBJECT_STORE_CLIENT_MAX_RETRIES": "2",
        }

    def bucket(self) -> str:
        """The URI of a new, empty bucket."""
        name = f"bucket-{uuid4().hex[:12]}"
        self._call("PUT", f"/{name}")
        return f"s3://{name}"

    def upload(self, folder: Path, uri: str) -> None:
        """Copy the files of a folder, with their places below it, under ``uri``."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{uri}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def put(self, uri: str, content: bytes) -> None:
        self._call("PUT", f"/{urllib.parse.quote(uri.removeprefix('s3://'))}", content)

    def delete(self, uri: str) -> None:
        self._call("DELETE", f"/{urllib.parse.quote(uri.removeprefix('s3://'))}")

    def keys(self, uri: str) -> list[str]:
        """Keys of the bucket at ``uri``, straight from the server."""
        bucket = uri.removeprefix("s3://").partition("/")[0]
        found = self._call("GET", f"/{bucket}?list-type=2&max-keys=1000").decode()
        return [part.partition("</Key>")[0] for part in found.split("<Key>")[1:]]

    def content(self, uri: str) -> bytes:
        return self._call("GET", f"/{urllib.parse.quote(uri.removeprefix('s3://'))}")

    @contextmanager
    def faults(self, *faults: dict[str, Any]) -> Iterator[None]:
        """Misbehave inside the block; see ``support.object_store_server``."""
        self._control("PUT", "/__faults__", list(faults))
        try:
            yield
        finally:
            self._control("PUT", "/__faults__", [])

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse every write inside the block, as a server does for credentials that may only read."""
        with self.faults({"kind": "status", "status": 403, "methods": ["PUT", "POST", "DELETE"]}):
            yield

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """Collects the requests made inside the block."""
        self._control("DELETE", "/__requests__")
        seen: list[str] = []
        yield seen
        seen += json.loads(self._control("GET", "/__requests__"))

    def _control(self, method: str, path: str, value: Any = None) -> bytes:
        request = urllib.request.Request(f"{self.endpoint}{path}", json.dumps(value).encode(), method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return bytes(answer.read())

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        # without a type, urllib says that the body is a form, and moto reads it as one
        headers = {
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request",
            "Content-Type": "application/octet-stream",
        }
        request = urllib.request.Request(f"{self.direct}{path}", body, headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return bytes(answer.read())


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """Start the server and its proxy; both end with the block."""
    program = Path(__file__).with_name("object_store_server.py")
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
    )
    try:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        yield ObjectStore(*("http://{}:{}".format(*found[name]) for name in ("backend", "proxy")))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
