"""An HTTP server with one object, in this process, that serves byte ranges, and misbehaves on demand."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RangeServer(ThreadingHTTPServer):
    """Serves `data` at `url`.

    Attributes
    ----------
    tag : str
        The ETag; "" for none.
    requests : list of (method, begin, end)
        All requests so far; begin and end are 0 for a HEAD.
    paths : list of str
        The path of each request.
    behave : callable
        Called with method, begin and end; returns how to answer: a status such as 503, "ignore" (send the
        whole object), "short" (a smaller range), "cut" (fewer bytes than announced), "drop" (close the
        connection), "hang" (until the server is closed), "stall" (hang after half of the bytes), "slow", or
        None for a correct answer.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data, self.tag = data, '"one"'
        self.requests: list[tuple[str, int, int]] = []
        self.paths: list[str] = []
        self.behave: Callable[[str, int, int], Any] = lambda method, begin, end: None
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), name="range-server", daemon=True).start()

    @property
    def url(self) -> str:
        """The object's URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/folder/train.beton"

    def fetched(self) -> list[tuple[int, int]]:
        """The requested ranges, sorted."""
        return sorted((begin, end) for method, begin, end in self.requests if method == "GET")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients disconnect in the middle of an answer."""

    def close(self) -> None:
        """Release hanging clients and shut down."""
        self.over.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        data, asked = self.server.data, re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        begin, end = (int(asked[1]), min(int(asked[2]) + 1, len(data))) if asked else (0, 0)
        self.server.requests.append((self.command, begin, end))
        self.server.paths.append(self.path)
        how = self.server.behave(self.command, begin, end)
        if how == "hang":
            self.server.over.wait()
        if how in ("hang", "drop"):
            self.close_connection = True
            return
        if isinstance(how, int):
            self._send(how, b"", {})
        elif asked and how != "ignore":
            end = (begin + end) // 2 if how == "short" else end
            self._send(206, data[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}, how)
        else:
            self._send(200, data, {})

    def _send(self, status: int, body: bytes, more: dict[str, str], how: Any = None) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT", **more}
        if self.server.tag:
            headers["ETag"] = self.server.tag
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if how == "cut":
            body, self.close_connection = body[: len(body) // 2], True
        step = {"slow": 1 << 18, "stall": (len(body) + 1) // 2}.get(how, max(len(body), 1))
        for at in range(0, len(body), step):
            if how == "stall" and at:
                self.server.over.wait()
            self.wfile.write(body[at : at + step])
            if how == "slow":
                time.sleep(0.05)
