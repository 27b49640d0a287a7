"""A frame that was put can be read, whole, under a name that its content gives; a store that fails says so."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from connectors import frames
from connectors.errors import ConfigurationError
from connectors.frames import FileFrames, FrameStore, FrameStoreError, HttpFrames, frame_store

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
DIGEST = hashlib.sha256(PNG).hexdigest()
NAME = f"{DIGEST[:2]}/{DIGEST[2:34]}.png"
TOKEN = SecretStr("hunter2-hunter2")


@dataclass
class ObjectStore:
    """What it was sent, and what it answers; it does not answer at all before `free` is set."""

    url: str = ""
    status: int = 201
    objects: dict[str, bytes] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    free: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def objects() -> Iterator[ObjectStore]:
    store = ObjectStore()
    store.free.set()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            store.headers.append({name.lower(): value for name, value in self.headers.items()})
            store.free.wait()
            if store.status < 300:
                store.objects[self.path] = body
            self.send_response(store.status)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Be silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_port}/previews"
    yield store
    store.free.set()
    server.shutdown()
    server.server_close()
    thread.join()


def put(store: FrameStore, *images: bytes) -> list[str]:
    async def scenario() -> list[str]:
        try:
            async with asyncio.timeout(20):
                return [await store.put(image) for image in images]
        finally:
            await store.close()

    return asyncio.run(scenario())


def files(directory: Path) -> list[str]:
    return sorted(one.relative_to(directory).as_posix() for one in directory.rglob("*") if one.is_file())


def test_a_file_is_named_by_its_content_and_the_same_picture_is_one_file(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there yet"
    assert put(FileFrames(directory), PNG, PNG) == [NAME, NAME]
    assert files(directory) == [NAME]
    assert (directory / NAME).read_bytes() == PNG
    written = (directory / NAME).stat()
    assert put(FileFrames(directory), PNG) == [NAME]
    assert (directory / NAME).stat() == written
    (other,) = put(FileFrames(directory), PNG + b"2")
    assert files(directory) == sorted([NAME, other])


def test_pictures_put_at_once_leave_whole_files_and_nothing_else(tmp_path: Path) -> None:
    images = [bytes([number % 4]) * 300_000 for number in range(32)]

    async def scenario() -> list[str]:
        stores = [FileFrames(tmp_path) for _ in images]
        return await asyncio.gather(*(store.put(image) for store, image in zip(stores, images, strict=True)))

    names = asyncio.run(scenario())
    assert files(tmp_path) == sorted(set(names))
    assert len(set(names)) == 4
    assert all((tmp_path / name).read_bytes() == image for name, image in zip(names, images, strict=True))


def test_a_file_is_put_in_its_place_whole_and_not_written_there(tmp_path: Path) -> None:
    place = tmp_path / NAME
    place.parent.mkdir()
    place.symlink_to(tmp_path / "elsewhere")  # what writes in place writes through it
    put(FileFrames(tmp_path), PNG)
    assert files(tmp_path) == [NAME]
    assert not place.is_symlink()


def test_a_file_that_cannot_be_finished_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir(parents=True)
    with pytest.raises(FrameStoreError, match=r"Is a directory\): see SLATE_FRAMES_URL"):
        put(FileFrames(tmp_path), PNG)
    assert files(tmp_path) == []


def test_a_directory_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FrameStoreError, match=r"no preview can be kept in .*file.*: see SLATE_FRAMES_URL"):
            put(FileFrames(directory), PNG)
    assert files(tmp_path) == ["file"]


def test_a_file_url_may_hold_what_a_url_escapes(tmp_path: Path) -> None:
    directory = tmp_path / "prévues 100%"
    put(frame_store(directory.as_uri()), PNG)
    put(frame_store(directory.as_uri().replace("file://", "file://localhost")), PNG)
    assert files(directory) == [NAME]


def test_an_object_store_gets_one_put_with_the_token(objects: ObjectStore) -> None:
    store = frame_store(objects.url + "/", TOKEN)
    assert put(store, PNG, PNG) == [f"{objects.url}/{NAME}"] * 2
    assert objects.objects == {f"/previews/{NAME}": PNG}
    assert [(one["authorization"], one["content-type"]) for one in objects.headers] == [
        ("Bearer hunter2-hunter2", "image/png")
    ] * 2


def test_without_a_token_none_is_sent(objects: ObjectStore) -> None:
    put(frame_store(objects.url), PNG)
    assert "authorization" not in objects.headers[0]


@pytest.mark.parametrize("status", [307, 403, 500, 503])
def test_a_store_that_does_not_take_the_frame_is_an_error_with_its_status(objects: ObjectStore, status: int) -> None:
    objects.status = status
    with pytest.raises(FrameStoreError, match=rf"does not take frames \({status}\): see SLATE_FRAMES_URL"):
        put(HttpFrames(objects.url, TOKEN), PNG)
    assert len(objects.headers) == 1
    objects.status = 200
    assert put(HttpFrames(objects.url, TOKEN), PNG) == [f"{objects.url}/{NAME}"]


def test_a_store_that_is_away_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(FrameStoreError, match=r"does not answer \(ConnectError\): see SLATE_FRAMES_URL"):
        put(HttpFrames("http://127.0.0.1:9/previews", TOKEN), PNG)


def test_a_store_that_hangs_is_given_up(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_TIMEOUT_S", 0.2)
    objects.free.clear()
    with pytest.raises(FrameStoreError, match=r"does not answer \(ReadTimeout\)"):
        put(HttpFrames(objects.url, TOKEN), PNG)


def test_the_token_is_in_no_error_and_in_no_text_of_the_store(objects: ObjectStore) -> None:
    objects.status = 500
    store = HttpFrames(objects.url, TOKEN)
    with pytest.raises(FrameStoreError) as refused:
        put(store, PNG)
    with pytest.raises(ConfigurationError) as unusable:
        HttpFrames(objects.url, SecretStr("hunter2\nX-Admin: yes"))
    said = [str(refused.value), repr(refused.value), repr(store), str(store), str(unusable.value)]
    assert not any("hunter2" in one for one in said), said


@pytest.mark.parametrize("token", ["zwei worte", "schlüssel", "line\n", "tab\t"])
def test_a_token_that_no_header_takes_is_refused_at_once(token: str) -> None:
    with pytest.raises(ConfigurationError, match="SLATE_FRAMES_TOKEN must be printable ASCII"):
        frame_store("https://objects.example/previews", SecretStr(token))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/var/frames",
        "file:frames",
        "file://",
        "file://frames/previews",
        "s3://bucket/previews",
        "ftp://host/previews",
        "https://",
        "https:///previews",
        "http://[::1/previews",
        "https://host:port/previews",
        "https://host:99999/previews",
        "https://host/a\nb",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SLATE_FRAMES_URL must be file:///directory or https://host/prefix"):
        frame_store(url)


@pytest.mark.parametrize(
    "url", ["https://user:hunter2@host/p", "https://hunter2@host/p", "https://host/p?sig=hunter2", "https://host/p#x"]
)
def test_what_must_not_get_into_references_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must have no credentials, query or fragment") as refused:
        frame_store(url)
    assert "hunter2" not in str(refused.value)


def test_the_urls_of_the_contract_are_taken() -> None:
    stores = [frame_store(one, TOKEN) for one in ("file:///tmp/frames", "https://host/prefix", "http://127.0.0.1:9000")]
    assert [type(one) for one in stores] == [FileFrames, HttpFrames, HttpFrames]
    for store in stores:
        asyncio.run(store.close())
