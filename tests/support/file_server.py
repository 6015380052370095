"""A web server on the loopback interface that serves a folder, with faults."""

import http.server
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path


class FileServer:
    """Serves the files of a folder; use it as a context manager.

    Attributes:
        broken: number of further requests whose connection breaks in the middle of the file.
        refused: number of further requests that are answered with status 503.
        requests: number of requests so far.
        answer: answers all further requests if it is set, given the request's handler.
        url: its address.
    """

    def __init__(self, folder: Path) -> None:
        self.broken = self.refused = self.requests = 0
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], None] | None = None
        handler = partial(_Handler, self, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FileServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, owner: FileServer, *arguments, **options) -> None:
        self._owner = owner  # the base class answers the request while it is initialised
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        self._owner.requests += 1
        if self._owner.answer:
            with suppress(OSError):  # the client may hang up
                self._owner.answer(self)
        elif self._owner.refused:
            self._owner.refused -= 1
            self.send_error(503)
        elif self._owner.broken:
            self._owner.broken -= 1
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    do_PATCH = do_POST

    def log_message(self, *_: object) -> None:
        pass
