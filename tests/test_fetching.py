import http.server
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import filelock
import keras
import pytest
from publishing import CONTENT, FILE, OTHER, Zoo, record_of

from elu_zoo import _fetching, weights


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /<behaviour>/<file> and notes what was asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.gate = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        self.server.requests.append(behaviour)
        if behaviour.isdigit():
            return self.send_error(int(behaviour))
        body = {
            "corrupts": OTHER,
            "shorter": CONTENT[:1000],
            "longer": CONTENT + b"more",
        }.get(behaviour, CONTENT)
        self.send_response(200)
        if behaviour != "no_length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour == "waits":
            self.server.gate.wait(60)
        if behaviour in ("truncates", "stalls", "no_length"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        if behaviour == "stalls":
            self.wfile.flush()
            self.server.gate.wait(60)


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    return Zoo(tmp_path, monkeypatch)


def test_places_in_order(zoo, server, tmp_path):
    files = [zoo.put(zoo.cache), zoo.put(zoo.package), zoo.put(zoo.checkout)]
    files.append(zoo.put(tmp_path / "folder_mirror"))
    zoo.mirrors(files[-1].parent, f"{server.url}/mirror/")
    urls = [f"{server.url}/url{i}/{FILE}" for i in (1, 2)]
    zoo.publish({"net.small": record_of(CONTENT, urls=urls)}, f"{server.url}/base")
    for file in files:
        assert _fetching.fetch("net.small") == file
        file.unlink()
    assert server.requests == []

    for failing in range(4):
        server.requests.clear()
        places = ["mirror", "url1", "url2", "base"]
        places[:failing] = ["404"] * failing
        zoo.mirrors(f"{server.url}/{places[0]}")
        urls = [f"{server.url}/{place}/{FILE}" for place in places[1:3]]
        records = {"net.small": record_of(CONTENT, urls=urls)}
        zoo.publish(records, f"{server.url}/{places[3]}")
        assert _fetching.fetch("net.small") == zoo.cache / FILE
        assert server.requests == places[: failing + 1]
        (zoo.cache / FILE).unlink()


BAD = [
    "truncates",
    "corrupts",
    "stalls",
    "404",
    "500",
    "shorter",
    "longer",
    "no_length",
]


@pytest.mark.parametrize("behaviour", BAD)
def test_bad_downloads_never_stay(zoo, server, monkeypatch, behaviour):
    if behaviour == "stalls":
        monkeypatch.setattr(_fetching, "TIMEOUT", 0.3)
    zoo.mirrors(f"{server.url}/{behaviour}")
    url = f"{server.url}/{behaviour}/{FILE}"
    with pytest.raises(OSError, match=re.escape(url)):
        _fetching.fetch("net.small")
    assert not (zoo.cache / FILE).exists()

    zoo.mirrors(f"{server.url}/{behaviour}", f"{server.url}/good")
    assert _fetching.fetch("net.small").read_bytes() == CONTENT
    assert [path.name for path in zoo.cache.glob("*") if path.suffix != ".lock"] == [
        FILE
    ]

    server.requests.clear()
    zoo.mirrors(f"{server.url}/{behaviour}")
    assert _fetching.fetch("net.small").read_bytes() == CONTENT
    assert server.requests == []


def test_connection_refused(zoo):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        zoo.mirrors(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(OSError, match="refused"):
            _fetching.fetch("net.small")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_terminals(zoo, server, monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    zoo.mirrors(f"{server.url}/good")
    _fetching.fetch("net.small")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (FILE in captured.err) == ("300k/300k" in captured.err) == terminal


def test_two_processes_share_one_download(zoo, server):
    zoo.mirrors(f"{server.url}/waits")
    code = (
        "from elu_zoo import _fetching; print('ready', flush=True); "
        "print(_fetching.fetch('net.small').stat().st_size)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
            cwd=pathlib.Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    server.gate.set()
    for process in processes:
        assert process.communicate(timeout=60)[0] == f"{len(CONTENT)}\n"
    assert server.requests == ["waits"]
    assert (zoo.cache / FILE).read_bytes() == CONTENT


def test_offline_opens_no_socket(zoo, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("a socket")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("ELU_ZOO_OFFLINE", "1")
    zoo.mirrors("http://127.0.0.1:9")
    with pytest.raises(OSError, match="ELU_ZOO_OFFLINE"):
        _fetching.fetch("net.small")
    assert weights.list_weights() == ["net.small"]
    packaged = zoo.put(zoo.package)
    assert _fetching.fetch("net.small") == packaged


def test_corrupt_files_are_passed_over_and_listed(zoo, server, tmp_path):
    bad = [zoo.put(folder, OTHER) for folder in (zoo.cache, zoo.package)]
    bad.append(zoo.put(tmp_path / "mirror", CONTENT[:9]))
    zoo.mirrors(bad[-1].parent, f"{server.url}/404")
    with pytest.raises(OSError) as caught:
        _fetching.fetch("net.small")
    lines = str(caught.value).splitlines()[1:]
    tried = [*bad[:2], zoo.checkout / FILE, bad[2], f"{server.url}/404/{FILE}"]
    for line, place in zip(lines, tried, strict=True):
        assert line.strip().startswith(f"{place}: ")
    assert "SHA-256" in lines[0] and "9 bytes" in lines[3] and "404" in lines[4]

    zoo.mirrors(f"{server.url}/good")
    assert _fetching.fetch("net.small") == zoo.cache / FILE
    assert (zoo.cache / FILE).read_bytes() == CONTENT
    assert (zoo.package / FILE).read_bytes() == OTHER


def test_a_file_that_changes_after_its_use_is_checked_again(zoo, server):
    zoo.mirrors(f"{server.url}/good")
    file = _fetching.fetch("net.small")
    file.write_bytes(OTHER)
    os.utime(file, (1, 1))
    assert _fetching.fetch("net.small").read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_cache_that_cannot_be_written(zoo, server, tmp_path):
    # A file in place of the folder: permissions do not stop a superuser.
    zoo.cache.parent.write_text("")
    zoo.mirrors(f"{server.url}/good")
    with pytest.raises(OSError, match="cannot be written.*KERAS_HOME"):
        _fetching.fetch("net.small")
    assert server.requests == []
    mirror = zoo.put(tmp_path / "mirror")
    zoo.mirrors(f"{server.url}/good", mirror.parent)
    assert _fetching.fetch("net.small") == mirror


@pytest.mark.parametrize("packaged", [True, False])
def test_no_place_of_publication(zoo, packaged):
    zoo.publish({"net.small": record_of(CONTENT, packaged=packaged)})
    message = "(?s)Expected to find .*elu-zoo fetch net.small.*ELU_ZOO_MIRROR.*no URL"
    with pytest.raises(OSError, match=message) as caught:
        _fetching.fetch("net.small")
    assert ("too large for the installed package" in str(caught.value)) != packaged
    # Wherever it lies, it is used.
    file = zoo.put(zoo.checkout)
    assert _fetching.fetch("net.small") == file


def test_default_cache(zoo, server, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(zoo.folder / "user"))
    monkeypatch.setenv("USERPROFILE", str(zoo.folder / "user"))
    zoo.mirrors(f"{server.url}/good")
    assert _fetching.fetch("net.small") == zoo.folder / "user/.keras/elu_zoo" / FILE


@pytest.mark.parametrize("how", ["my mirror", "file"])
def test_folders_as_mirrors(zoo, tmp_path, how):
    file = zoo.put(tmp_path / "my mirror, of mine")
    zoo.mirrors("", file.parent.as_uri() if how == "file" else file.parent)
    assert _fetching.fetch("net.small") == file


def test_file_systems_without_locks(zoo, server, monkeypatch):
    def refuse(self, *arguments, **keywords):
        raise NotImplementedError("flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    zoo.mirrors(f"{server.url}/good")
    assert _fetching.fetch("net.small").read_bytes() == CONTENT
