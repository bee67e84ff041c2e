"""An S3 server on loopback (moto) behind a proxy that misbehaves on demand; run as a program of its own.

A program, because GDAL and Lance wait for answers with Python's lock held, and would wait for ever for a thread of
their own process. Prints one line of JSON with the two addresses, then serves until its standard input closes.

Faults are set by ``PUT /__faults__`` with a JSON list; each is an object with ``kind``, ``times``, ``methods``,
``path``, ``after``, ``seconds`` and ``status``:

- ``status``: answers with that status and an S3 error body; nothing reaches the server.
- ``drop``: forwards, then closes the connection after ``after`` bytes of the answer's body.
- ``cut``: closes the connection without forwarding.
- ``lost``: forwards and closes the connection without an answer: the server did it, and the client cannot know.
- ``delay``: waits ``seconds``, then serves.

``times`` limits how often a fault strikes (-1: always), ``methods`` and ``path`` (a regular expression, searched) whom;
``skip`` lets the first ones through, ``every`` strikes each n-th.
``GET /__requests__`` lists what was asked since the last ``DELETE /__requests__``.
"""

import http.client
import json
import os
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}


class Proxy(ThreadingHTTPServer):
    """The misbehaving door to the server at ``backend``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, backend: tuple[str, int], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.backend = backend
        self.lock = threading.Lock()
        self.faults: list[dict[str, Any]] = []
        self.requests: list[str] = []

    def fault_for(self, method: str, path: str) -> dict[str, Any] | None:
        with self.lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if method in fault.get("methods", [method]) and re.search(fault.get("path", ""), path):
                    fault["met"] += 1
                    due = fault["met"] > fault["skip"] and fault["met"] % fault["every"] == 0
                    if due and fault["times"] != 0:
                        fault["times"] -= 1
                        return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is none of our business."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def _serve(self) -> None:
        body = self._body()
        if self.path.startswith("/__"):
            self._control(body)
            return
        fault = self.server.fault_for(self.command, self.path)
        kind = fault["kind"] if fault else ""
        if fault and kind == "status":
            code = _CODES.get(fault["status"], "Error")
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>on demand</Message></Error>".encode()
            self._answer(fault["status"], {"Content-Type": "application/xml"}, text)
            return
        if fault and kind == "delay":
            time.sleep(fault["seconds"])
        if kind == "cut":
            self._hang_up()
            return
        connection = http.client.HTTPConnection(*self.server.backend, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "expect"):
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
        if self.command == "HEAD":
            headers["Content-Length"] = answer.getheader("Content-Length") or "0"
        if kind == "lost":
            self._hang_up()
            return
        self._answer(answer.status, headers, content, after=fault["after"] if fault and kind == "drop" else None)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, headers: dict[str, str], content: bytes, after: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if after is None else content[:after])
        if after is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _control(self, body: bytes) -> None:
        proxy = self.server
        with proxy.lock:
            if self.path == "/__faults__":
                proxy.faults = [{"times": -1, "met": 0, "skip": 0, "every": 1} | fault for fault in json.loads(body)]
            elif self.command == "DELETE":
                proxy.requests.clear()
            found = json.dumps(proxy.requests).encode()
        self._answer(200, {"Content-Type": "application/json"}, found)


for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
    setattr(Handler, f"do_{method}", Handler._serve)


def main() -> None:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    backend = moto.get_host_and_port()
    proxy = Proxy(backend)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    print(json.dumps({"backend": list(backend), "proxy": list(proxy.server_address)}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
