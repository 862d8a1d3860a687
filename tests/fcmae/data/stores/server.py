"""A web server on loopback, of a folder: it lists, sends ranges, and fails where it is told to."""

import html
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class Server:
    url: str
    root: Path
    failing: dict[str, str | int] = field(default_factory=dict)
    """Part of a path → hang, break, or a status; the empty part is in each."""
    fails_after: int = 0
    """Requests, of all in ``requests``, that are answered whatever ``failing`` says."""
    ranges: bool = True
    version_header: str | None = "ETag"
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(method, path) of what was answered or not."""
    sent: int = 0
    """Bytes of contents."""
    released: threading.Event = field(default_factory=threading.Event)

    def count(self, part: str = "") -> int:
        return sum(part in path for method, path in self.requests if method == "GET")


@contextmanager
def serving(root: Path, port: int = 0) -> Iterator[Server]:
    state = Server("", root)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(has_body=False)

        def do_GET(self) -> None:
            self.answer(has_body=True)

        def answer(self, has_body: bool) -> None:
            name = unquote(self.path.partition("?")[0])
            state.requests.append((self.command, name))
            fault = next((what for part, what in state.failing.items() if part in name), None)
            if len(state.requests) <= state.fails_after:
                fault = None
            if fault == "hang":
                state.released.wait(60)
                return
            if isinstance(fault, int):
                self.send_error(fault)
                return
            file = root / name.lstrip("/")
            if file.is_dir():
                links = [f'<a href="{html.escape(one.name)}{"/" * one.is_dir()}">x</a>' for one in file.iterdir()]
                self.send(200, "\n".join(links).encode(), {"Content-Type": "text/html"}, has_body, fault)
            elif file.is_file():
                data, headers = file.read_bytes(), {}
                if state.version_header is not None:
                    headers[state.version_header] = f'"{file.stat().st_mtime_ns}"'
                asked = self.headers.get("Range")
                if state.ranges:
                    headers["Accept-Ranges"] = "bytes"
                if asked and state.ranges:
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
                    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
                    self.send(206, data[start:end], headers, has_body, fault)
                else:
                    self.send(200, data, headers, has_body, fault)
            else:
                self.send_error(404)

        def send(self, status: int, data: bytes, headers: dict[str, str], has_body: bool, fault: object) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if has_body:
                self.wfile.write(data[: len(data) // 2] if fault == "break" else data)
                state.sent += len(data)

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Quiet(("127.0.0.1", port), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
