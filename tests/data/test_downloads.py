"""Downloads: verified before use, retried after faults of the server, cached by digest."""

import pytest

from mtdnn.data import downloads
from mtdnn.data.downloads import cache_folder, check_digest, download
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import sha256
from tests.support.file_server import FileServer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTDNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
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


def test_a_file_that_the_server_does_not_have_is_not_requested_again(server, cache):
    with pytest.raises(MtdnnError, match=r"other\.txt: the server answered 404"):
        download(f"{server.url}/other.txt", "0" * 64)
    assert server.requests == 1
    assert not list(cache.rglob("*.txt"))


def test_a_file_with_another_digest_is_not_kept(server, cache, published):
    with pytest.raises(MtdnnError, match=rf"sha256 is {sha256(published)}, expected 000"):
        download(f"{server.url}/corpus.txt", "0" * 64)
    assert not list(cache.rglob("*.txt"))


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
