"""A real MLflow server that can be killed and restarted, and a proxy that misbehaves."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# No telemetry, and no processes that run jobs for the user interface.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """`mlflow server` on a loopback port, over a SQLite store; use it as a context manager."""

    def __init__(self, folder: Path, store: str):
        self._folder, self._store, self.port = folder, store, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self._store]
        command += ["--artifacts-destination", str(self._folder / "served")]
        log = self._folder / "server.log"
        with open(log, "w") as file:
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                cwd=self._folder,
                start_new_session=True,
                env={**os.environ, **QUIET},
            )
        for _ in range(240):
            if self._process.poll() is not None:
                break
            with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=2):
                return
            time.sleep(0.5)
        self.kill()
        pytest.fail(f"mlflow server did not start: {log.read_text()[-500:]}")

    def kill(self) -> None:
        """Kill the server and all its workers."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None


class Proxy:
    """Forwards requests to a server, and misbehaves on demand.

    Attributes:
        mood: None forwards; "500" answers with that status; "drop" hangs up; "lose" forwards the
            request and loses the answer; "old" answers as a server before MLflow 3, which knows no
            logged models; a float waits for that many seconds, then forwards;
            bytes are the answer to everything, with status 200.
        writes: number of requests that change something, by the last part of their path.
        address: the proxy's address.
    """

    def __init__(self, server: Server):
        self.mood: str | float | bytes | None = None
        self.writes: dict[str, int] = {}
        handler = type("Handler", (_Handler,), {"proxy": self, "port": server.port})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    port: int

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mood = self.proxy.mood
        if mood == "500":
            return self._answer(500, b"{}")
        if mood == "old" and "logged-models" in self.path:
            return self._answer(404, b"<!doctype html><title>404 Not Found</title>", "text/html")
        if isinstance(mood, bytes):
            return self._answer(200, mood)
        if mood == "drop":
            return self._hang_up()
        if isinstance(mood, float):
            time.sleep(mood)
        name = self.path.rpartition("/")[2]
        if self.command != "GET":
            self.proxy.writes[name] = self.proxy.writes.get(name, 0) + 1
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        except OSError:
            return self._hang_up()  # the server is down
        finally:
            connection.close()
        if mood == "lose":
            return self._hang_up()
        return self._answer(answer.status, content, answer.getheader("Content-Type"))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def _answer(self, status: int, content: bytes, kind: str | None = None) -> None:
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind or "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
