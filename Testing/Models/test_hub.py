"""The download of MedSAM against a real server on this machine: resumed, checked, cancelled, explained."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from transformers import SamModel

from medquant.errors import Cancelled, UserError
from medquant.models import hub
from medquant.models.registry import load_model
from medquant.progress import Progress

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does: checksum and size in the header, parts on request."""

    files: dict[str, bytes]
    lie: bool
    requests: list[tuple[str, str, str | None]]
    open_gate: threading.Event

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, *, with_body: bool) -> None:
        name, span = self.path.rsplit("/", 1)[-1], self.headers.get("Range")
        self.requests.append((self.command, name, span))
        if name not in self.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return
        content = self.files[name]
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if name.endswith(".json"):  # small files carry git's checksum, large ones SHA-256
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        else:
            etag = hashlib.sha256(content).hexdigest()
        body = content[start:]
        self.send_response(206 if span else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self.open_gate.wait(30)
            self.wfile.write(bytes(len(body)) if self.lie and not name.endswith(".json") else body)


@pytest.fixture
def server(small_adapter: Any, tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    from medquant.models.prompt_images import SlicePreprocessing

    network: SamModel = small_adapter(SlicePreprocessing(image_size=64)).network
    state = {k: v.contiguous().clone() for k, v in network.state_dict().items()}
    save_file(state, tmp_path / "served.safetensors")
    files = {
        "model.safetensors": (tmp_path / "served.safetensors").read_bytes(),
        "config.json": json.dumps(network.config.to_dict()).encode(),
    }
    gate = threading.Event()
    gate.set()
    handler = type("Handler", (Hub,), {"files": files, "lie": False, "requests": [], "open_gate": gate})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", handler
        running.shutdown()


def test_a_download_gives_a_folder_that_loads(server: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, handler = server
    events: list[Any] = []
    folder = hub.download_medsam(folder=tmp_path / "cache", endpoint=endpoint, progress=Progress(events.append))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == handler.files["model.safetensors"]
    assert any("Fetching model.safetensors" in event.message for event in events)
    assert [e.fraction for e in events] == sorted(e.fraction for e in events)
    assert load_model("medsam", weights=folder, device="cpu").preprocessing.scaling == "minmax"
    asked = len(handler.requests)
    hub.download_medsam(folder=tmp_path / "cache", endpoint="http://127.0.0.1:9")  # no network needed any more
    assert len(handler.requests) == asked


def test_an_interrupted_download_goes_on_where_it_stopped(server: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, handler = server
    content = handler.files["model.safetensors"]
    folder = tmp_path / "cache"
    folder.mkdir()
    etag = hashlib.sha256(content).hexdigest()
    (folder / f"model.safetensors.{etag[:12]}.part").write_bytes(content[:1000])
    hub.download_medsam(folder=folder, endpoint=endpoint)
    assert (folder / "model.safetensors").read_bytes() == content
    assert ("GET", "model.safetensors", "bytes=1000-") in handler.requests


def test_cancel_keeps_the_part_and_gives_no_file(server: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, _ = server
    seen: list[str] = []
    progress = Progress(lambda event: seen.append(event.message), lambda: len(seen) >= 1)
    with pytest.raises(Cancelled):
        hub.download_medsam(folder=tmp_path / "cache", endpoint=endpoint, progress=progress)
    assert hub.medsam_folder(tmp_path / "cache") is None
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_a_damaged_download_is_thrown_away(server: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, handler = server
    handler.lie = True
    with pytest.raises(UserError, match="arrived damaged"):
        hub.download_medsam(folder=tmp_path / "cache", endpoint=endpoint)
    assert not list((tmp_path / "cache").iterdir())
    handler.lie = False
    hub.download_medsam(folder=tmp_path / "cache", endpoint=endpoint)


def test_two_downloads_at_once_do_not_mix(server: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, handler = server
    handler.open_gate.clear()
    told: dict[str, list[str]] = {"first": [], "second": [], "third": []}
    waits = "Waiting for another process that fetches the same"

    def fetch(who: str, cancelled: Callable[[], bool] | None = None) -> Path:
        progress = Progress(lambda event: told[who].append(event.message), cancelled)
        return hub.download_medsam(folder=tmp_path / "cache", endpoint=endpoint, progress=progress)

    with ThreadPoolExecutor() as people:
        first = people.submit(fetch, "first")
        while not any(method == "GET" for method, *_ in handler.requests):
            assert not first.done(), first.exception()
        second = people.submit(fetch, "second")
        while waits not in told["second"]:
            assert not second.done() and sum(method == "GET" for method, *_ in handler.requests) == 1
        with pytest.raises(Cancelled):
            fetch("third", lambda: waits in told["third"])
        handler.open_gate.set()
        assert first.result() == second.result() == tmp_path / "cache"
    assert (tmp_path / "cache" / "model.safetensors").read_bytes() == handler.files["model.safetensors"]
    assert sum(method == "GET" for method, *_ in handler.requests) == 2, "each of two files once"


def test_the_older_weight_file_serves_as_well(server: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, handler = server
    handler.files["pytorch_model.bin"] = handler.files.pop("model.safetensors")
    folder = hub.download_medsam(folder=tmp_path / "cache", endpoint=endpoint)
    assert (folder / "pytorch_model.bin").is_file()


def test_without_a_network_the_way_by_hand_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        hub.download_medsam(folder=tmp_path / "cache", endpoint="http://127.0.0.1:9")
    message = str(caught.value)
    for part in ("wanglab/medsam-vit-base", "medsam_vit_b.pth", str(tmp_path / "cache"), "embedded"):
        assert part in message


def test_a_file_put_there_by_hand_is_found(tmp_path: Path) -> None:
    assert hub.medsam_folder(tmp_path) is None
    (tmp_path / "medsam_vit_b.pth").touch()
    assert hub.medsam_folder(tmp_path) == tmp_path / "medsam_vit_b.pth"


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "The disk of"), (errno.EDQUOT, "Your disk quota of")])
def test_no_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(hub, "_fetch", refuse)
    with pytest.raises(UserError, match=rf"{words} .* is used up. Free 400 MB"):
        hub.download_medsam(folder=tmp_path / "cache")


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        hub.download_medsam(folder=tmp_path / "file" / "cache", endpoint="http://127.0.0.1:9")
