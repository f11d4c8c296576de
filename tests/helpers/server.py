"""A small HTTP server that can cut connections and refuse ranges."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 8_000


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        begin = 0
        if server.status:
            self.send_error(server.status)
            return
        asked = self.headers.get("Range")
        if asked and server.ranges and self.headers.get("If-Range", server.tag) == server.tag:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
        server.begins.append(begin)
        size = len(server.content)
        if begin >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            first = begin + 1 if server.wrong_range else begin
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - begin))
        self.send_header("ETag", server.tag)
        self.end_headers()
        end = size if server.cut_after is None else min(size, begin + server.cut_after)
        for start in range(begin, end, 65_536):
            self.wfile.write(server.content[start : min(end, start + 65_536)])
            time.sleep(server.delay)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves `content` at every address, with the faults of its attributes."""

    content = CONTENT
    ranges = True
    tag = '"1"'
    status = 0
    cut_after: int | None = None
    """Bytes after which a connection is dropped; None: never."""
    delay = 0.0
    wrong_range = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.begins: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/corpus.zip"
