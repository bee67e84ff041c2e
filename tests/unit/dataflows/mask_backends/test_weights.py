"""Where weights come from, what is wrong with them, and that no network is touched before it is asked for."""

import hashlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from dataflows import mask_backends
from dataflows.mask_backends import _samgeo
from dataflows.mask_backends._weights import (
    OFFLINE_VARIABLES,
    Published,
    checked,
    tensor_shapes,
    tensors,
    torch_hub_folder,
    weights_file,
)
from dataflows.mask_backends.sam import SamBackend
from dataflows.mask_backends.sam_hq import HqBackend
from support import tiny_sam
from utils.errors import (
    ConfigError,
    DownloadForbiddenError,
    ExtraMissingError,
    UnknownNameError,
    WeightsError,
    WeightsNotFoundError,
    WeightsUnreachableError,
)

BACKENDS = {"sam": SamBackend, "sam_hq": HqBackend}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No connection can be opened, and the list of those that were tried."""
    tried: list[Any] = []

    def connect(_: socket.socket, address: Any) -> None:
        tried.append(address)
        raise AssertionError(f"a connection to {address} was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


@dataclass
class Server:
    """A web server of one file that can misbehave."""

    body: bytes
    cut_after: int | None = None
    status: int = 200
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/weights.pth"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    served = Server(tiny_sam.outline_of(tmp_path / "served.pth", "sam", "vit_b").read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            self.send_response(served.status)
            self.send_header("Content-Length", str(len(served.body)))
            self.end_headers()
            self.wfile.write(served.body[: served.cut_after])

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        served.port = made.server_address[1]
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        made.shutdown()


def publish(monkeypatch: pytest.MonkeyPatch, server: Server, *, sha256: str | None = None) -> None:
    one = Published(file="sam_vit_b_01ec64.pth", url=server.url, megabytes=1, sha256=sha256)
    monkeypatch.setattr(SamBackend, "published", {"vit_b": one})


class Runs:
    """A pickle that would run code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def truncated(path: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:-3000])


def truncated_old(path: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-3000])


def other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")


def corrupt(path: Path) -> None:
    torch.save({"a": torch.zeros(50)}, path)
    data = bytearray(path.read_bytes())
    start = data.index(b"data.pkl") + 60
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))


BROKEN = {
    "folder": (Path.mkdir, "are a folder"),
    "empty": (Path.touch, "empty file"),
    "truncated": (truncated, "truncated at"),
    "truncated, old format": (truncated_old, "corrupt"),
    "corrupt": (corrupt, "corrupt|more than tensors"),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><title>404</title>"), "a web page"),
    "git lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        "git lfs pull",
    ),
    "text": (lambda path: path.write_text("hello"), "begins with b'hello'"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "hold more than tensors|corrupt"),
    "another archive": (other_archive, "corrupt"),
    "a list": (lambda path: torch.save([torch.zeros(2)], path), "no state dict but a list"),
    "nothing in it": (lambda path: torch.save({}, path), r"with the keys \(none\)"),
    "a wrapped state": (
        lambda path: torch.save({"model": {"a": torch.zeros(1)}, "epoch": 3}, path),
        "'model', 'epoch'",
    ),
    "a whole module": (lambda path: torch.save(torch.nn.Linear(2, 2), path), "may run code"),
    "code": (lambda path: torch.save({"a": Runs(path.with_suffix(".ran"))}, path), "may run code"),
    "an optimizer": (lambda path: torch.save({"a": torch.zeros(2)}, path), "of no published model"),
}


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoints_are_told_apart_before_any_network(
    name: str, kind: str, tmp_path: Path, unplugged: list[Any]
) -> None:
    path = tmp_path / "weights.pth"
    make, message = BROKEN[kind]
    make(path)
    for options in ({"model_type": "vit_b"}, {}):
        with pytest.raises(WeightsError, match=message) as caught:
            mask_backends.weights(name, checkpoint=str(path), download=True, **options)
        assert str(path) in str(caught.value)
    assert not unplugged
    assert not path.with_suffix(".ran").exists()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("download", [False, True])
def test_a_missing_path_is_an_error_and_never_a_download(
    name: str, download: bool, tmp_path: Path, unplugged: list[Any]
) -> None:
    missing = tmp_path / "no" / "weights.pth"
    for ask in (mask_backends.weights, mask_backends.get):
        with pytest.raises(WeightsNotFoundError, match="nothing was downloaded") as caught:
            ask(name, model_type="vit_b", checkpoint=str(missing), download=download)
        assert str(missing) in str(caught.value)
    assert not unplugged


@pytest.mark.parametrize("name", BACKENDS)
def test_published_weights_that_are_not_there_say_what_to_do(name: str, tmp_path: Path, unplugged: list[Any]) -> None:
    for model_type, one in BACKENDS[name].published.items():
        with pytest.raises(WeightsNotFoundError, match="download: true") as caught:
            mask_backends.weights(name, model_type=model_type, checkpoint_dir=str(tmp_path))
        assert one.file in str(caught.value)
        assert one.url in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    assert not unplugged


@pytest.mark.parametrize("variable", OFFLINE_VARIABLES)
@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline_forbids_downloads_and_nothing_else(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unplugged: list[Any]
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(DownloadForbiddenError, match=f"{variable} forbids downloads"):
        mask_backends.weights("sam", model_type="vit_b", checkpoint_dir=str(tmp_path), download=True)
    tiny_sam.outline_of(tmp_path / "sam_vit_b_01ec64.pth", "sam", "vit_b")
    assert mask_backends.weights("sam", model_type="vit_b", checkpoint_dir=str(tmp_path), download=True)
    assert not unplugged


@pytest.mark.parametrize("name", BACKENDS)
def test_unknown_model_types_list_the_known(name: str, tmp_path: Path, unplugged: list[Any]) -> None:
    with pytest.raises(UnknownNameError, match=r"known: .*vit_b, vit_h, vit_l"):
        mask_backends.weights(name, model_type="vit_x", download=True)
    path = tiny_sam.checkpoint(tmp_path, name)
    with pytest.raises(UnknownNameError, match=r"known: .*vit_b, vit_h, vit_l"):
        mask_backends.weights(name, model_type="vit_x", checkpoint=str(path))
    assert not unplugged


@pytest.mark.parametrize(
    ("held", "asked", "told"),
    [
        (("sam", "vit_l"), ("sam", "vit_b"), "a vit_l of the mask backend 'sam', not a vit_b"),
        (("sam_hq", "vit_b"), ("sam", "vit_b"), "a vit_b of the mask backend 'sam_hq'"),
        (("sam", "vit_h"), ("sam_hq", "vit_h"), "a vit_h of the mask backend 'sam'"),
        (("sam_hq", "vit_tiny"), ("sam_hq", "vit_l"), "a vit_tiny of the mask backend 'sam_hq'"),
        (("sam_hq", "vit_l"), ("sam", None), "a vit_l of the mask backend 'sam_hq'"),
    ],
)
def test_weights_of_another_model_are_named(held: Any, asked: Any, told: str, tmp_path: Path) -> None:
    path = tiny_sam.outline_of(tmp_path / "weights.pth", *held)
    with pytest.raises(WeightsError, match=told):
        mask_backends.weights(asked[0], model_type=asked[1], checkpoint=str(path))


@pytest.mark.parametrize(
    ("name", "model_type"), [(name, kind) for name in BACKENDS for kind in BACKENDS[name].published]
)
def test_a_published_model_is_recognised_and_its_hash_is_that_of_its_file(
    name: str, model_type: str, tmp_path: Path
) -> None:
    path = tiny_sam.outline_of(tmp_path / "any name", name, model_type)
    expected = {model_type: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert mask_backends.weights(name, checkpoint=str(path)) == expected
    assert mask_backends.weights(name, checkpoint=str(path), model_type=model_type) == expected


def test_the_real_architectures_are_recognised() -> None:
    """The table of widths and depths against the libraries' own builders; all but the smallest without memory."""
    tiny_sam.register()
    from segment_anything import sam_model_registry as plain
    from segment_anything_hq import sam_model_registry as high

    for name, registry, kinds in (("sam", plain, ["vit_b", "vit_h"]), ("sam_hq", high, ["vit_b", "vit_tiny"])):
        for kind in kinds:
            with torch.device("cpu" if kind == "vit_tiny" else "meta"):
                shapes = {key: tuple(each.shape) for key, each in registry[kind]().state_dict().items()}
            assert _samgeo.recognised(shapes) == (name, kind)


def test_names_urls_and_folder_are_those_of_segment_geospatial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import samgeo.common as theirs

    fetched: list[tuple[Any, str]] = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(theirs, "download_file", lambda url, output: fetched.append((url, output)))
    monkeypatch.setattr(theirs, "download_files", lambda url, folder, **_: fetched.append((url, folder)))
    for name, backend in BACKENDS.items():
        for model_type, one in backend.published.items():
            theirs_path = theirs.download_checkpoint(model_type, hq=name == "sam_hq")
            assert theirs_path == str(torch_hub_folder() / one.file)
            if (name, model_type) != ("sam_hq", "vit_h"):
                assert fetched[-1] == (one.url, theirs_path)
    # a split archive there; here the authors' own file
    assert isinstance(fetched[-1][0], list)
    monkeypatch.delenv("TORCH_HOME")
    assert str(torch_hub_folder()) == os.path.expanduser("~/.cache/torch/hub/checkpoints")  # noqa: PTH111 - theirs


def test_a_download_appears_whole_and_happens_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = hashlib.sha256(server.body).hexdigest()
    publish(monkeypatch, server, sha256=expected)
    folder = tmp_path / "new" / "folder"
    ask = partial(mask_backends.weights, "sam", model_type="vit_b", checkpoint_dir=str(folder))
    with pytest.raises(WeightsNotFoundError):
        ask()
    assert ask(download=True) == {"vit_b": expected}
    assert ask(download=True) == ask() == {"vit_b": expected}
    assert len(server.asked) == 1
    assert [path.name for path in folder.iterdir()] == ["sam_vit_b_01ec64.pth"]
    assert capsys.readouterr() == ("", "")


def test_what_a_killed_download_left_goes_a_day_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server)
    old, new, other = (
        tmp_path / f".{name}.part" for name in ("sam_vit_b_01ec64.pth.a", "sam_vit_b_01ec64.pth.b", "x.a")
    )
    for left in (old, new, other):
        left.touch()
    os.utime(old, (0, 0))
    mask_backends.weights("sam", model_type="vit_b", checkpoint_dir=str(tmp_path), download=True)
    assert [left.exists() for left in (old, new, other)] == [False, True, True]


def test_downloads_side_by_side_leave_one_whole_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server)
    ask = partial(mask_backends.weights, "sam", model_type="vit_b", checkpoint_dir=str(tmp_path / "w"), download=True)
    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert all(each == {"vit_b": hashlib.sha256(server.body).hexdigest()} for each in found)
    assert len(list((tmp_path / "w").iterdir())) == 1


def cut(server: Server) -> None:
    server.cut_after = len(server.body) // 2


def gone(server: Server) -> None:
    server.status = 404


def page(server: Server) -> None:
    server.body = b"<html>sign in</html>"


def silent(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.port = free.getsockname()[1]


@pytest.mark.parametrize(
    ("break_", "error", "message"),
    [
        (cut, WeightsUnreachableError, "cut after|nothing was kept"),
        (silent, WeightsUnreachableError, "cannot be downloaded"),
        (gone, WeightsError, "answered 404"),
        (page, WeightsError, "a web page"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    break_: Any,
    error: type[WeightsError],
    message: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_(server)
    publish(monkeypatch, server)
    folder = tmp_path / "w"
    with pytest.raises(error, match=message) as caught:
        mask_backends.weights("sam", model_type="vit_b", checkpoint_dir=str(folder), download=True)
    assert caught.value.is_transient == (error is WeightsUnreachableError)
    assert list(folder.iterdir()) == []


def test_a_download_of_other_content_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server, sha256="0" * 64)
    with pytest.raises(WeightsError, match="expected 0000"):
        mask_backends.weights("sam", model_type="vit_b", checkpoint_dir=str(tmp_path / "w"), download=True)
    assert list((tmp_path / "w").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(server: Server, tmp_path: Path, monkeypatch: Any) -> None:
    publish(monkeypatch, server)
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot be written"):
        mask_backends.weights("sam", model_type="vit_b", checkpoint_dir=str(tmp_path / "file" / "w"), download=True)


def test_tensors_saved_on_a_gpu_load_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("shows a machine without CUDA")
    path = tmp_path / "gpu.pth"
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save({"a": torch.arange(3.0)}, path)
    with pytest.raises(RuntimeError, match="CUDA device"):
        torch.load(path, weights_only=True)
    assert tensors(path, backend="sam")["a"].tolist() == [0, 1, 2]


def test_old_format_and_wrapped_states_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"model": {"a": torch.ones(2, 3)}}, path, _use_new_zipfile_serialization=False)
    assert tensor_shapes(checked(path, backend="x"), backend="x", inside="model") == {"a": (2, 3)}


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for kind in ("vit_b", "vit_l"):
        tiny_sam.outline_of(path, "sam", kind)
        assert set(mask_backends.weights("sam", checkpoint=str(path)) or {}) == {kind}


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tiny_sam.outline_of(tmp_path / "weights.pth", "sam", "vit_b")
    assert weights_file({}, tmp_path, backend="x", model_type="y", checkpoint="~/weights.pth") == path


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "options", [{}, {"model_type": ""}, {"checkpoint": 3}, {"model_type": "vit_b", "checkpoint_dir": ["a"]}]
)
def test_options_that_name_no_weights_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="mask_options"):
        mask_backends.weights(name, **options)


@pytest.mark.parametrize("missing", ["samgeo", "segment_anything", "segment_anything_hq", "timm"])
def test_a_missing_extra_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "sam_hq" if missing in {"segment_anything_hq", "timm"} else "sam"
    path = tiny_sam.outline_of(tmp_path / "weights.pth", name, "vit_b")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExtraMissingError, match=rf'{missing}\b.*pip install -e "\.\[sam\]"'):
        mask_backends.get(name, checkpoint=str(path))
    with pytest.raises(ExtraMissingError, match=r"\[sam\]"):
        _samgeo.registered(name)


def test_the_core_imports_no_model_library(tmp_path: Path) -> None:
    path = tiny_sam.outline_of(tmp_path / "weights.pth", "sam", "vit_b")
    high = tiny_sam.outline_of(tmp_path / "high.pth", "sam_hq", "vit_tiny")
    code = f"""
import sys
from dataflows import mask_backends
mask_backends.names()
assert "torch" not in sys.modules
mask_backends.weights("sam", checkpoint={str(path)!r})
mask_backends.get("sam_hq", model_type="vit_tiny", checkpoint={str(high)!r})
heavy = {{"samgeo", "segment_anything", "segment_anything_hq", "timm", "transformers", "sam2", "torchvision"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout == "[]\n"
    assert done.stderr == ""
