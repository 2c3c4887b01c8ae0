"""Fetching from a server on this machine: mirrors, sums, resuming; archives that mean no good; pictures by address."""

import contextlib
import hashlib
import io
import os
import socket
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

import fedlab_mm as fl
from fedlab_mm.data import Source
from fedlab_mm.data import fetch as fetching
from fedlab_mm.data.fetch import CHUNK, SUMS, Download, fetch, fetch_pictures, unpack

CONTENT = bytes(range(256)) * 40
LONG = CONTENT * (3 * CHUNK // len(CONTENT))  # between two and three of the pieces that are kept


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.delenv("FEDLAB_MM_OFFLINE", raising=False)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Site:
    """What is served: path -> content. `cut` breaks an answer off after so many bytes, once; `no_ranges` sends files
    from their start only. `asked` has every request's path and Range."""

    def __init__(self):
        self.files, self.cut, self.no_ranges, self.asked = {}, {}, set(), []

    def handler(self):
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path = self.path
                site.asked.append((path, self.headers.get("Range")))
                content = site.files.get(path)
                if content is None:
                    self.send_error(404)
                    return
                start = 0
                wanted = self.headers.get("Range")
                if wanted and path not in site.no_ranges:
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                    if start >= len(content):
                        self.send_response(416)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                upto = site.cut.pop(path, len(content))
                self.wfile.write(content[start:upto])
                if upto < len(content):
                    self.close_connection = True

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def site(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), site.handler())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def nowhere():
    """The address of a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def bring(folder, *urls, content=CONTENT, **more):
    more = {"sha256": sha256(content), **more}
    fetch([Download(urls, **more)], folder, "x", progress=False)


def test_a_file_is_fetched_once(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    for _ in range(2):
        bring(tmp_path / "new" / "folder", f"{site.url}/a.bin")
    assert (tmp_path / "new" / "folder" / "a.bin").read_bytes() == CONTENT
    assert site.asked == [("/a.bin", None)]
    assert os.listdir(tmp_path / "new" / "folder") == ["a.bin"]


def test_a_wrong_sum_is_refused_and_not_kept(site, tmp_path):
    site.files["/a.bin"] = CONTENT[:-1] + b"?"
    with pytest.raises(
        fl.FedlabError, match=r"a\.bin could not be fetched \(127\.0\.0\.1:\d+: SHA256 hash of downloaded"
    ):
        bring(tmp_path, f"{site.url}/a.bin")
    assert not os.listdir(tmp_path)


def test_a_file_that_has_changed_on_disk_is_fetched_again(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin").write_bytes(b"half")
    bring(tmp_path, f"{site.url}/a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_mirrors_are_asked_in_turn(site, tmp_path, nowhere):
    site.files["/wrong/a.bin"] = b"another file"
    site.files["/m/a.bin"] = CONTENT
    bring(tmp_path, f"{nowhere}/a.bin", f"{site.url}/gone/a.bin", f"{site.url}/wrong/a.bin", f"{site.url}/m/a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [path for path, _ in site.asked] == ["/gone/a.bin", "/wrong/a.bin", "/m/a.bin"]


def test_all_mirrors_and_their_failures_are_said(site, tmp_path, nowhere):
    message = r"a\.bin could not be fetched \(127\.0\.0\.1:\d+: no connection; 127\.0\.0\.1:\d+: 404 Client Error.*\)$"
    with pytest.raises(fl.FedlabError, match=message) as error:
        bring(tmp_path, f"{nowhere}/a.bin", f"{site.url}/a.bin")
    assert "\n" not in str(error.value)
    assert not os.listdir(tmp_path)


def test_a_download_that_broke_off_goes_on(site, tmp_path):
    site.files["/a.bin"], site.cut["/a.bin"] = LONG, len(LONG) - 1000
    with pytest.raises(fl.FedlabError, match=r"a\.bin could not be fetched"):
        bring(tmp_path, f"{site.url}/a.bin", content=LONG)
    assert [(p.name, p.stat().st_size) for p in tmp_path.iterdir()] == [("a.bin.part", 2 * CHUNK)]
    bring(tmp_path, f"{site.url}/a.bin", content=LONG)
    assert site.asked == [("/a.bin", None), ("/a.bin", f"bytes={2 * CHUNK}-")]
    assert (tmp_path / "a.bin").read_bytes() == LONG and os.listdir(tmp_path) == ["a.bin"]


def test_a_mirror_goes_on_where_the_first_broke_off(site, tmp_path):
    site.files["/1/a.bin"] = site.files["/2/a.bin"] = LONG
    site.cut["/1/a.bin"] = CHUNK + 5
    bring(tmp_path, f"{site.url}/1/a.bin", f"{site.url}/2/a.bin", content=LONG)
    assert site.asked == [("/1/a.bin", None), ("/2/a.bin", f"bytes={CHUNK}-")]
    assert (tmp_path / "a.bin").read_bytes() == LONG


def test_a_server_that_cannot_go_on_starts_again(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    site.no_ranges.add("/a.bin")
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:100])
    bring(tmp_path, f"{site.url}/a.bin")
    assert site.asked == [("/a.bin", "bytes=100-")] and (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more", b"x" * 50_000])
def test_a_part_with_nothing_after_it_is_fetched_anew(site, tmp_path, part):
    site.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(part)
    bring(tmp_path, f"{site.url}/a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and os.listdir(tmp_path) == ["a.bin"]


def test_a_part_of_another_file_spoils_one_attempt_only(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(b"?" * 100)
    with pytest.raises(fl.FedlabError, match="SHA256 hash"):
        bring(tmp_path, f"{site.url}/a.bin")
    bring(tmp_path, f"{site.url}/a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_sum_that_nobody_names_is_that_of_the_first_download(site, tmp_path):
    site.files["/a.bin"], site.files["/b.bin"] = CONTENT, b"b"
    for _ in range(2):
        bring(tmp_path, f"{site.url}/a.bin", sha256=None)
    bring(tmp_path, f"{site.url}/b.bin", sha256=None)
    assert (tmp_path / SUMS).read_text(encoding="utf-8") == f"{sha256(CONTENT)}  a.bin\n{sha256(b'b')}  b.bin\n"
    assert len(site.asked) == 2
    (tmp_path / "a.bin").unlink()
    site.files["/a.bin"] = b"changed"
    with pytest.raises(fl.FedlabError, match=r"a\.bin could not be fetched .*SHA256 hash"):
        bring(tmp_path, f"{site.url}/a.bin", sha256=None)
    assert not (tmp_path / "a.bin").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(fl.FedlabError, match=r"cannot be made .*; set FEDLAB_MM_CACHE to another folder"):
        bring(tmp_path / "file" / "x", "http://127.0.0.1:9/a.bin")


def zipped(entries, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content, **options)
    return file.getvalue()


def tarred(entries, links=(), mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for kind, name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return file.getvalue()


@pytest.fixture
def archive(tmp_path):
    """Writes an archive and unpacks some of its members; everything that may be touched lies under `in`."""

    def attempt(content, members, name="a.zip"):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        path = tmp_path / name
        path.write_bytes(content)
        unpack(path, folder, members)
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    return attempt


@pytest.mark.parametrize("make", [zipped, tarred])
def test_only_the_members_asked_for_are_unpacked(archive, make):
    content = make({"d/a.csv": b"1", "d/b.csv": b"2" * 700_000, "../evil": b"3", "/etc/evil": b"4", "d/run.sh": b"5"})
    assert archive(content, {"d/a.csv": "a.csv", "d/b.csv": "deep/b.csv"}) == {
        "a.csv": b"1",
        "deep/b.csv": b"2" * 700_000,
    }


def test_a_tar_of_this_folder_is_the_same_as_one_without(archive):
    assert archive(tarred({"./d/a.csv": b"1"}, mode="w"), {"d/a.csv": "a.csv"}, "a.tar") == {"a.csv": b"1"}


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil", "/tmp/fedlab_evil", "x/../../evil", "..", "."])
def test_a_member_that_would_leave_the_folder_is_refused(archive, tmp_path, make, name):
    with pytest.raises(fl.FedlabError, match=r"a\.zip: member m would leave"):
        archive(make({"m": b"!"}), {"m": name})
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "in"] and not os.listdir(tmp_path / "in")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_no_member_of_a_tar_but_a_plain_file_is_unpacked(archive, tmp_path, kind):
    with pytest.raises(fl.FedlabError, match=r"a\.tar\.gz: holds no plain file m"):
        archive(tarred({"f": b"1"}, [(kind, "m", "f")]), {"m": "m"}, "a.tar.gz")
    assert not os.listdir(tmp_path / "in")


def test_a_link_in_a_zip_is_no_plain_file(archive, tmp_path):
    info = zipfile.ZipInfo("m")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(fl.FedlabError, match=r"a\.zip: holds no plain file m"):
        archive(zipped({info: "/etc/passwd"}), {"m": "m"})
    assert not os.listdir(tmp_path / "in")


def link(path, target):
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("links need a right that this user does not have")  # Windows


def test_a_link_that_lies_in_the_folder_is_not_followed_out_of_it(archive, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "outside").mkdir()
    link(tmp_path / "in" / "d", tmp_path / "outside")
    link(tmp_path / "in" / "f", tmp_path / "outside" / "f")
    for name in ("d/f", "f"):
        with pytest.raises(fl.FedlabError, match="would leave"):
            archive(zipped({"m": b"1"}), {"m": name})
    assert not os.listdir(tmp_path / "outside")


def lie(content, size):
    """The same zip with another size of its only member, here and in its list of contents."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        told = archive.infolist()[0].file_size.to_bytes(4, "little")
    assert content.count(told) >= 2
    return content.replace(told, size.to_bytes(4, "little"))


@pytest.mark.parametrize("size", [1, 123_455, 123_457, 2**31])
def test_a_size_that_is_not_what_it_says_is_refused(archive, tmp_path, size):
    content = lie(zipped({"m": b"a" * 123_456}), size)
    with pytest.raises(fl.FedlabError, match=r"a\.zip: (member m is damaged|cannot be unpacked)"):
        archive(content, {"m": "m"})
    assert not os.listdir(tmp_path / "in")


def test_no_more_is_written_than_was_announced():
    out = io.BytesIO()
    assert fetching._copy(io.BytesIO(bytes(10 * CHUNK)), out, CHUNK + 1) > CHUNK + 1
    assert len(out.getvalue()) <= CHUNK + 1


def test_what_would_unfold_too_far_is_refused(archive, monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "MAX_UNPACKED", 1000)
    with pytest.raises(fl.FedlabError, match=r"member m is refused: 1,001 bytes once it is unpacked"):
        archive(zipped({"m": bytes(1001)}), {"m": "m"})
    assert not os.listdir(tmp_path / "in")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"<html>Not found</html>",
                                    lambda c: c[:60] + bytes(x ^ 255 for x in c[60:400]) + c[400:]])  # fmt: skip
def test_damaged_archives_are_named(archive, tmp_path, name, damage):
    entries = {"m": bytes(i * i % 251 for i in range(5000))}
    content = zipped(entries) if name == "a.zip" else tarred(entries)
    with pytest.raises(fl.FedlabError, match=rf"{name}: .*(damaged|cannot be unpacked|holds no plain file m)"):
        archive(damage(content), {"m": "m"}, name)
    assert not os.listdir(tmp_path / "in")


def test_an_archive_is_fetched_and_unpacked(site, tmp_path):
    site.files["/x-1/data.zip"] = content = zipped({"data/log.csv": b"1,2"})
    bring(tmp_path, f"{site.url}/x-1/data.zip", content=content, members={"data/log.csv": "log.csv"})
    assert (tmp_path / "log.csv").read_bytes() == b"1,2"
    with pytest.raises(fl.FedlabError, match=r"data\.zip: holds no plain file data/no\.csv"):
        bring(tmp_path, f"{site.url}/x-1/data.zip", content=content, members={"data/no.csv": "no.csv"})
    assert len(site.asked) == 1


@pytest.fixture
def dataset(site):
    class Tiny(Source):
        name = "tiny-set"
        files = ("log.csv",)
        where_to_get = "example.org"
        downloads = (Download((f"{site.url}/d.zip",), None, {"log.csv": "log.csv"}),)

    return Tiny


def test_a_dataset_is_fetched_into_the_cache_unless_a_root_is_named(site, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEDLAB_MM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDLAB_MM_DATA", raising=False)
    site.files["/d.zip"] = zipped({"log.csv": b"1"})
    with pytest.raises(fl.FedlabError, match=r"'tiny-set': no log\.csv in .*Get them from example\.org"):
        dataset.find(tmp_path)
    for on in ("1", "true", "YES", " on "):
        monkeypatch.setenv("FEDLAB_MM_OFFLINE", on)
        with pytest.raises(fl.FedlabError, match=rf"no log\.csv.* not fetched, for FEDLAB_MM_OFFLINE={on} keeps this"):
            dataset.find()
    monkeypatch.setenv("FEDLAB_MM_OFFLINE", "perhaps")
    with pytest.raises(fl.FedlabError, match=r"^FEDLAB_MM_OFFLINE=perhaps: must be one of 1, true, yes, on, or"):
        dataset.find()
    assert not site.asked
    monkeypatch.setenv("FEDLAB_MM_OFFLINE", "0")
    assert dataset.find() == dataset.find() == tmp_path / "cache" / "tiny-set"
    assert len(site.asked) == 1


def test_where_fetching_fails_both_ways_are_told(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_MM_CACHE", str(tmp_path))
    monkeypatch.delenv("FEDLAB_MM_DATA", raising=False)
    with pytest.raises(
        fl.FedlabError, match=r"Get them from example\.org.*Fetching it failed too: d\.zip could not be fe"
    ):
        dataset.find()


@pytest.mark.parametrize("off", ["", "0", "false", "No", "off"])
def test_only_a_variable_that_says_so_keeps_a_machine_offline(site, tmp_path, monkeypatch, off):
    monkeypatch.setenv("FEDLAB_MM_OFFLINE", off)
    site.files["/a.bin"] = CONTENT
    bring(tmp_path, f"{site.url}/a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_offline_what_is_there_is_used_and_nothing_else_is_asked_for(site, tmp_path, monkeypatch):
    site.files = {"/a.bin": CONTENT, "/1": picture(), "/2": picture()}
    bring(tmp_path, f"{site.url}/a.bin")
    assert pictures({"a": f"{site.url}/1"}, tmp_path / "images") == {}
    (tmp_path / "b.bin.part").write_bytes(CONTENT[:10])
    asked = len(site.asked)
    monkeypatch.setenv("FEDLAB_MM_OFFLINE", "1")
    bring(tmp_path, f"{site.url}/a.bin")
    with pytest.raises(fl.FedlabError, match=r"^b\.bin cannot be fetched: FEDLAB_MM_OFFLINE=1 keeps this machine off"):
        bring(tmp_path, f"{site.url}/b.bin")
    assert pictures({"a": f"{site.url}/1"}, tmp_path / "images") == {}
    with pytest.raises(fl.FedlabError, match=r"^one picture cannot be fetched: FEDLAB_MM_OFFLINE=1 keeps this machine"):
        pictures({"a": f"{site.url}/1", "b": f"{site.url}/2"}, tmp_path / "images")
    assert len(site.asked) == asked and (tmp_path / "b.bin.part").read_bytes() == CONTENT[:10]


def picture(kind="JPEG", size=(12, 8), **options):
    file = io.BytesIO()
    Image.new("RGB", size, (9, 90, 200)).save(file, kind, **options)
    return file.getvalue()


def pictures(urls, folder):
    return fetch_pictures(urls, folder, workers=3, progress=False)


def test_pictures_are_named_by_their_items_and_kinds(site, tmp_path):
    two = {"save_all": True, "append_images": [Image.new("RGB", (12, 8))]}  # as some telephones write a JPEG
    site.files = {"/1": picture(), "/2.jpg": picture("PNG"), "/3": picture("WEBP"), "/4": picture("MPO", **two)}
    site.files |= {"/5": picture("TIFF"), "/6": picture("JPEG2000")}
    urls = {"a": f"{site.url}/1", "b.x": f"{site.url}/2.jpg", "c": f"{site.url}/3", "d": f"{site.url}/4"}
    urls |= {"e": f"{site.url}/5", "é": f"{site.url}/6"}
    assert pictures(urls, tmp_path / "images") == {}
    assert sorted(os.listdir(tmp_path / "images")) == ["a.jpg", "b.x.png", "c.webp", "d.jpg", "e.tiff", "é.jp2"]
    assert len(site.asked) == 6
    site.files = {}
    (tmp_path / "images" / "é.jp2").rename(tmp_path / "images" / "e\u0301.jp2")  # as some disks of macOS write it
    assert pictures(urls, tmp_path / "images") == {} and len(site.asked) == 6  # what is there is not fetched again


def test_where_capitals_do_not_count_no_picture_takes_the_place_of_another(site, tmp_path, monkeypatch):
    site.files = {"/1": picture(), "/2": picture(), "/3": picture()}
    (tmp_path / "B.png").write_bytes(picture("PNG"))
    monkeypatch.setattr(fetching, "_folds_case", lambda folder: True)
    problems = pictures({"a": f"{site.url}/1", "A": f"{site.url}/2", "b": f"{site.url}/3"}, tmp_path)
    assert problems == {
        "A": "item 'A': here its picture would have the name of that of 'a'",
        "b": "item 'b': here its picture would have the name of that of 'B'",
    }
    assert sorted(os.listdir(tmp_path)) == ["B.png", "a.jpg"] and site.asked == [("/1", None)]


def test_whether_capitals_count_is_asked_of_the_disk(tmp_path):
    (tmp_path / "a").touch()
    assert fetching._folds_case(tmp_path) == (tmp_path / "A").exists()
    assert os.listdir(tmp_path) == ["a"]


def test_a_note_beside_the_pictures_is_no_picture(site, tmp_path):
    (tmp_path / "a.txt").touch()
    site.files["/1"] = picture()
    assert pictures({"a": f"{site.url}/1"}, tmp_path) == {}
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "a.txt"]


@pytest.mark.parametrize(
    ("item", "url", "message"),
    [
        ("a", "SITE/page.html", "page.html: not a picture in one of JPEG"),
        ("a", "SITE/half.jpg", "half.jpg: cannot be decoded"),
        ("a", "SITE/long.jpg", "long.jpg: more than 1 MiB"),
        ("a", "SITE/gone.jpg", "gone.jpg: 404 Client Error"),
        ("a", "SITE/cut.jpg", "cut.jpg: "),
        ("a", "NOWHERE/a.jpg", "a.jpg: no connection"),
        ("a", "ftp://127.0.0.1/a.jpg", "ftp://127.0.0.1/a.jpg: not an http(s) address"),
        ("a", "file:///etc/passwd", "file:///etc/passwd: not an http(s) address"),
        ("a", "", ": not an http(s) address"),
        ("a", "http://[::1/a.jpg", "http://[::1/a.jpg: "),
        ("a", "http://", "http://: "),
        ("a", "http://\udc80.invalid/", ": "),
        ("../a", "SITE/good.jpg", "item '../a' cannot be a file's name"),
        (".a", "SITE/good.jpg", "item '.a' cannot be a file's name"),
        ("C:a", "SITE/good.jpg", "item 'C:a' cannot be a file's name"),
        ("", "SITE/good.jpg", "item '' cannot be a file's name"),
        ("a" * 300, "SITE/good.jpg", "good.jpg: "),
        ("a\udc80\ud800", "SITE/good.jpg", ""),
    ],
)
def test_pictures_that_cannot_be_had_are_listed_and_the_others_come(
    site, tmp_path, nowhere, monkeypatch, item, url, message
):
    monkeypatch.setattr(fetching, "MAX_PICTURE", 1 << 20)
    site.files = {
        "/good.jpg": picture(), "/page.html": b"<html>", "/half.jpg": picture(size=(200, 200))[:700],
        "/long.jpg": picture("BMP", (700, 600)), "/cut.jpg": picture(),
    }  # fmt: skip
    site.cut["/cut.jpg"] = 100
    urls = {item: url.replace("SITE", site.url).replace("NOWHERE", nowhere), "good": f"{site.url}/good.jpg"}
    problems = pictures(urls, tmp_path)
    assert list(problems) == [item] and message in problems[item]
    assert os.listdir(tmp_path) == ["good.jpg"]


def test_a_server_that_says_nothing_is_not_waited_for_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", (0.3, 0.3))
    with contextlib.closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.bin"
        with pytest.raises(
            fl.FedlabError, match=r"a\.bin could not be fetched \(127\.0\.0\.1:\d+: no answer in time\)"
        ):
            bring(tmp_path, url)


@pytest.mark.skipif(os.name != "posix", reason="files have no modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_what_was_fetched_has_the_mode_that_the_umask_gives(site, tmp_path, umask, mode):
    """Downloads, what is unpacked of them, and pictures: other accounts of a group work on them too."""
    site.files = {"/d.zip": zipped({"in/log.csv": b"1"}), "/a.bin": CONTENT, "/1": picture()}
    before = os.umask(umask)
    try:
        fetch([Download((f"{site.url}/d.zip",), None, {"in/log.csv": "log.csv"})], tmp_path, "x", progress=False)
        bring(tmp_path, f"{site.url}/a.bin")
        assert pictures({"a": f"{site.url}/1"}, tmp_path) == {}
    finally:
        os.umask(before)
    for name in ("d.zip", "log.csv", "a.bin", "a.jpg"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode, name
