"""Downloads: verified before use, retried after faults of the server, cached by digest."""

import errno
import gzip
import hashlib
import io
import os
import time

import pytest

from mtdnn.data import downloads
from mtdnn.data.corpora import publishers
from mtdnn.data.downloads import cache_folder, check_digest, download
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256
from tests.support.file_server import FileServer


class Impatient:
    """The module `time`, but nobody sleeps."""

    monotonic = staticmethod(time.monotonic)

    def sleep(self, _: float) -> None:
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "time", Impatient())
    return tmp_path / "cache"


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "data" / "corpus.txt"
    path.parent.mkdir()
    path.write_bytes(b"some text\n" * 300_000)  # more than one chunk
    return path


@pytest.fixture
def server(cache, published):
    with FileServer(published.parent) as server:
        yield server


def test_a_file_is_downloaded_once(server, cache, published):
    digest = sha256(published)
    path = download(f"{server.url}/corpus.txt", digest)
    assert path.read_bytes() == published.read_bytes()
    assert path.is_relative_to(cache)
    assert download(f"{server.url}/corpus.txt", digest) == path
    assert server.requests == 1


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, published):
    digest = sha256(published)
    path = download(f"{server.url}/corpus.txt", digest)
    path.write_bytes(path.read_bytes()[:-1])
    assert sha256(download(f"{server.url}/corpus.txt", digest)) == digest
    assert server.requests == 2


@pytest.mark.parametrize("fault", ["broken", "refused"])
def test_broken_connections_and_server_errors_are_retried(fault, server, published):
    setattr(server, fault, downloads.MAX_ATTEMPTS - 1)
    path = download(f"{server.url}/corpus.txt", sha256(published))
    assert path.read_bytes() == published.read_bytes()
    assert server.requests == downloads.MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("broken", r"corpus\.txt: download failed: connection broken after 4 of 1000 bytes"),
        ("refused", r"corpus\.txt: the server answered 503"),
    ],
)
def test_a_download_that_keeps_failing_leaves_nothing(fault, message, server, cache, published):
    setattr(server, fault, downloads.MAX_ATTEMPTS)
    with pytest.raises(MtdnnError, match=message) as error:
        download(f"{server.url}/corpus.txt", sha256(published))
    assert "\n" not in str(error.value)
    assert server.requests == downloads.MAX_ATTEMPTS
    assert not list(cache.rglob("*.txt"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_the_download_not_repeated(server, cache, monkeypatch, code):
    class Full(io.BytesIO):
        def write(self, _) -> int:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(downloads, "open", lambda *_: Full(), raising=False)
    with pytest.raises(MtdnnError) as error:
        download(f"{server.url}/corpus.txt", "0" * 64)
    assert str(error.value) == (
        f"{server.url}/corpus.txt: download failed: no space left for {cache}/files; free some, "
        "or set MTDNN_CACHE to a folder on a larger disk"
    )
    assert server.requests == 1


def test_a_file_that_the_server_does_not_have_is_not_requested_again(server, cache):
    with pytest.raises(MtdnnError, match=r"other\.txt: the server answered 404"):
        download(f"{server.url}/other.txt", "0" * 64)
    assert server.requests == 1
    assert not list(cache.rglob("*.txt"))


def test_a_file_with_another_digest_is_not_kept(server, cache, published):
    with pytest.raises(MtdnnError, match=rf"sha256 is {sha256(published)}, expected 000"):
        download(f"{server.url}/corpus.txt", "0" * 64)
    assert not list(cache.rglob("*.txt"))


# --- servers that send too much, never end, or point elsewhere --------------------------------


def send(handler, content: bytes = b"", status: int = 200, **headers: object) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(content)


def without_end(handler) -> None:
    send(handler)
    while True:
        handler.wfile.write(bytes(1 << 16))


def chunks_without_end(handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    send(handler, Transfer_Encoding="chunked", Content_Length=1000)
    while True:
        handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def declared_too_large(handler) -> None:
    send(handler, Content_Length=1 << 50)
    handler.wfile.write(bytes(1 << 16))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (without_end, "the server sends more than 1000000 bytes; refused"),
        (chunks_without_end, "the server sends more than 100"),
        (declared_too_large, "has 1125899906842624 bytes, more than 1000000; refused"),
    ],
)
def test_downloads_stop_at_a_declared_or_sensible_size(server, cache, monkeypatch, answer, message):
    monkeypatch.setattr(downloads, "MAX_FILE_BYTES", 1_000_000, raising=False)
    server.answer = answer
    with pytest.raises(MtdnnError, match=rf"corpus\.txt: {message}"):
        download(f"{server.url}/corpus.txt", "0" * 64)
    assert server.requests == 1
    assert not list(cache.rglob("*.txt"))


def test_a_server_that_hardly_sends_anything_is_given_up(server, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(downloads, "MAX_ATTEMPTS", 1)

    def drip(handler) -> None:
        send(handler)
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.1)

    server.answer = drip
    began = time.monotonic()
    with pytest.raises(MtdnnError, match=r"corpus\.txt: download failed: only \d+ bytes in"):
        download(f"{server.url}/corpus.txt", "0" * 64)
    assert time.monotonic() - began < 5


def test_a_gzip_bomb_is_not_unpacked(server, cache):
    """The file is what the server sends; nothing here asks for or undoes compression."""
    bomb = gzip.compress(bytes(100 << 20))
    server.answer = lambda handler: send(
        handler, bomb, Content_Encoding="gzip", Content_Length=len(bomb)
    )
    path = download(f"{server.url}/corpus.txt", hashlib.sha256(bomb).hexdigest())
    assert path.read_bytes() == bomb
    with pytest.raises(MtdnnError, match="not UTF-8"):
        list(publishers.jsonl(path, "corpus.txt"))


@pytest.mark.parametrize("target", ["file://{path}", "ftp://127.0.0.1/x", "data:text/plain,hello"])
def test_redirects_stay_on_the_web_even_with_the_right_digest(server, published, target):
    target = target.format(path=published)
    server.answer = lambda handler: send(handler, status=302, Location=target)
    with pytest.raises(MtdnnError, match=r"corpus\.txt: .*(not allowed|unknown url type: ftp)"):
        download(f"{server.url}/corpus.txt", sha256(published))


def test_other_redirects_are_followed(server, published):
    def redirect(handler) -> None:
        server.answer = None
        send(handler, status=302, Location=f"{server.url}/corpus.txt")

    server.answer = redirect
    assert download(f"{server.url}/moved", sha256(published)).read_bytes() == published.read_bytes()


def test_the_message_about_a_digest_uses_the_given_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    check_digest(tmp_path / "file", sha256(tmp_path / "file"), "the file")
    with pytest.raises(MtdnnError, match=r"^the file: its sha256 is .*, expected 111"):
        check_digest(tmp_path / "file", "1" * 64, "the file")


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MTDNN_CACHE", raising=False)
    assert cache_folder("files") == tmp_path / ".cache" / "mtdnn" / "files"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("files") == tmp_path / "xdg" / "mtdnn" / "files"
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "chosen"))
    assert cache_folder("wheels") == tmp_path / "chosen" / "wheels"
