"""Fetching what publishers let anyone fetch: by mirror, resumed, checked, and unpacked where it belongs.

pooch keeps the file and checks its SHA-256. What it has not is resuming, so its downloader is ours: it goes on from the
bytes that an earlier attempt left in `NAME.part`.
"""

import contextlib
import hashlib
import logging
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests
from PIL import Image
from tqdm import tqdm

from fedlab_mm.encoding import UnreadableImage, nfc, open_image, pictures_in
from fedlab_mm.errors import FedlabError
from fedlab_mm.files import beside, put, replace, whole
from fedlab_mm.network import ask

CHUNK = 1 << 18
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
MAX_UNPACKED = 64 << 30
MAX_PICTURE = 32 << 20
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Download:
    """A file that may be fetched.

    Attributes:
        urls: the publisher's address first, then mirrors that hold the same bytes.
        sha256: of the file; None where its publisher names none and changes it at times: then the sum of the first
            download is written to SHA256SUMS and holds from there on.
        members: what an archive is unpacked for, archive path -> name in the dataset's folder; empty for a plain file.
    """

    urls: tuple[str, ...]
    sha256: str | None = None
    members: Mapping[str, str] | None = None

    @property
    def file(self) -> str:
        return PurePosixPath(urlsplit(self.urls[0]).path).name


def fetch(downloads: Sequence[Download], folder: Path, name: str, progress: bool = True) -> None:
    """Bring every file into `folder`, archives unpacked. A file that is there and has the right sum is not fetched
    again.

    Raises:
        FedlabError: no mirror answers, this machine is to stay offline, a file has another sum than it should, an
            archive is damaged or unsafe.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FedlabError(
            f"{folder} cannot be made ({error.strerror}); set FEDLAB_MM_CACHE to another folder"
        ) from None
    for download in downloads:
        path = _retrieve(download, folder, name, progress)
        if download.members is not None:
            unpack(path, folder, download.members)


def _retrieve(download: Download, folder: Path, name: str, progress: bool) -> Path:
    known = download.sha256 or _written_sum(folder, download.file)
    failures = []
    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        for url in download.urls:
            try:
                path = Path(
                    pooch.retrieve(
                        url,
                        known,
                        fname=download.file,
                        path=folder,
                        downloader=Resuming(progress, f"{name}: {download.file}"),
                    )
                )
                if download.sha256 is None and known is None:
                    _write_sum(folder, download.file)
                return path
            except FedlabError:  # it may not be fetched: that is no mirror's fault
                raise
            except (requests.RequestException, OSError, ValueError) as error:
                # pooch says a wrong sum as a ValueError; a half-kept file must not be gone on with then.
                if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
                    (folder / f"{download.file}.part").unlink(missing_ok=True)
                failures.append(f"{urlsplit(url).netloc}: {_reason(error)}")
    finally:
        logger.setLevel(before)
    raise FedlabError(f"{download.file} could not be fetched ({'; '.join(failures)})")


def _reason(error: Exception) -> str:
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class Resuming:
    """A pooch downloader that goes on where an earlier attempt broke off, if the server can."""

    def __init__(self, progress: bool = True, what: str = ""):
        self.progress, self.what = progress, what

    def __call__(self, url: str, output_file: str, pooch_object: Any, check_only: bool = False) -> None:
        # pooch hands out a fresh temporary name in the folder each time; what lasts is beside it, under the URL's name.
        name = PurePosixPath(urlsplit(url).path).name
        ask(name)
        part = Path(output_file).parent / f"{name}.part"
        done = part.stat().st_size if part.is_file() else 0
        headers = (
            {"Range": f"bytes={done}-", "Accept-Encoding": "identity"} if done else {"Accept-Encoding": "identity"}
        )
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if done and answer.status_code == 416:  # nothing after these bytes: the file was whole, or is another
                part.unlink()
                return self(url, output_file, pooch_object)
            answer.raise_for_status()
            if answer.status_code != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                done = 0
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length and length.isdigit() else None
            with (
                open(part, "ab" if done else "wb") as file,
                tqdm(
                    total=total,
                    initial=done,
                    desc=self.what,
                    unit="B",
                    unit_scale=True,
                    disable=not self.progress,
                    delay=1,
                ) as bar,
            ):
                for piece in answer.iter_content(CHUNK):
                    file.write(piece)
                    bar.update(len(piece))
            if total is not None and part.stat().st_size < total:
                raise requests.ConnectionError("the connection broke off")
        replace(part, Path(output_file))


def unpack(archive: Path, folder: Path, members: Mapping[str, str]) -> None:
    """Take some members of a zip or tar archive into `folder`, each under a name of its own.

    Nothing but these is written, each to a temporary name first. A member that is a link or no plain file is refused,
    and so is one that would leave the folder or unfold beyond 64 GiB.
    """
    try:
        with _opened(archive) as entries:
            lacking = [m for m in members if m not in entries]
            if lacking:
                raise FedlabError(f"{archive}: holds no plain file {lacking[0]}")
            for member, name in members.items():
                target = (folder / name).resolve()
                if folder.resolve() not in target.parents or ".." in PurePosixPath(name).parts:
                    raise FedlabError(f"{archive}: member {member} would leave {folder}")
                size, open_member = entries[member]
                if size > MAX_UNPACKED:
                    raise FedlabError(f"{archive}: member {member} is refused: {size:,} bytes once it is unpacked")
                target.parent.mkdir(parents=True, exist_ok=True)
                with whole(target) as partial, open(partial, "xb") as file, open_member() as source:
                    if _copy(source, file, size) != size:
                        raise FedlabError(f"{archive}: member {member} is damaged: its size is not what it says")
    except FedlabError:
        raise
    except Exception as error:  # zipfile, tarfile, zlib and lzma have no common base for what is damaged
        raise FedlabError(f"{archive}: cannot be unpacked ({error}); delete it to fetch it again") from None


def _copy(source: Any, file: Any, size: int) -> int:
    """Copy, but never more than one piece beyond what was announced."""
    written = 0
    while piece := source.read(CHUNK):
        written += len(piece)
        if written > size:
            break
        file.write(piece)
    return written


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[dict[str, tuple[int, Any]]]:
    """Member -> its size and how to open it, plain files only."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            plain = [i for i in zipped.infolist() if not i.is_dir() and not stat.S_ISLNK(i.external_attr >> 16)]
            yield {i.filename: (i.file_size, lambda i=i: zipped.open(i)) for i in plain}
    else:
        with tarfile.open(archive) as tarred:
            yield {i.name.removeprefix("./"): (i.size, lambda i=i: tarred.extractfile(i)) for i in tarred if i.isfile()}


def fetch_pictures(urls: Mapping[str, str], folder: Path, workers: int = 8, progress: bool = True) -> dict[str, str]:
    """Pictures by URL, each into `folder` under its item's name; those that are there are not fetched again.

    Args:
        urls: item -> http(s) address.

    Returns:
        item -> why its picture could not be had.

    Raises:
        FedlabError: this machine is to stay offline, and some are not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = pictures_in(folder)
    todo = {item: url for item, url in urls.items() if nfc(item) not in there}
    problems = {}
    if todo:
        ask(f"{len(todo):,} pictures" if len(todo) > 1 else "one picture")
    if todo and _folds_case(folder):
        first = {item.casefold(): item for item in reversed([*there, *todo])}
        for item in [item for item in todo if first[item.casefold()] != item]:
            problems[item] = (
                f"item '{item}': here its picture would have the name of that of '{first[item.casefold()]}'"
            )
            del todo[item]
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(_picture, url, folder, item): item for item, url in todo.items()}
        for done in tqdm(
            as_completed(waiting), total=len(waiting), desc="pictures", unit="picture", disable=not progress
        ):
            if problem := done.result():
                problems[waiting[done]] = problem
    return problems


def _folds_case(folder: Path) -> bool:
    """Whether a.jpg and A.jpg are one file there, as on most disks of Windows and macOS."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".fetching-") as file:
        return Path(file.name).with_name(Path(file.name).name.swapcase()).exists()


def _suffix_of(form: str) -> str:
    usual = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2"}.get(form, f".{form.lower()}")
    endings = sorted(ending for ending, of in Image.registered_extensions().items() if of == form)
    return usual if usual in (*endings, ".jpg") else endings[0]


def _picture(url: str, folder: Path, item: str) -> str | None:
    if not url.lower().startswith(("http://", "https://")):
        return f"{url[:80]}: not an http(s) address"
    # Windows would take half a character; what it refuses beside (?, *, CON) it says when the file is put in its place.
    if not item or item.startswith(".") or any(c in "/\\\0:" or "\ud800" <= c <= "\udfff" for c in item):
        return f"item '{item}' cannot be a file's name"
    partial = beside(folder / "fetching")
    try:
        with open(partial, "xb") as file, requests.get(url, stream=True, timeout=TIMEOUT) as answer:
            answer.raise_for_status()
            for piece in answer.iter_content(CHUNK):
                file.write(piece)
                if file.tell() > MAX_PICTURE:
                    return f"{url[:80]}: more than {MAX_PICTURE >> 20} MiB"
        open_image(partial)
        with Image.open(partial) as picture:
            suffix = _suffix_of(str(picture.format))
        os.replace(partial, folder / f"{item}{suffix}")
        return None
    except UnreadableImage as error:
        return f"{url[:80]}: {error.reason}"
    except (requests.RequestException, OSError, ValueError) as error:  # an address or a name may be no Unicode
        return f"{url[:80]}: {_reason(error)}"
    finally:
        partial.unlink(missing_ok=True)


def _written_sum(folder: Path, file: str) -> str | None:
    with contextlib.suppress(OSError):
        for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            if name == file and len(digest) == 64:
                return digest
    return None


def _write_sum(folder: Path, file: str) -> None:
    with open(folder / file, "rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    before = (folder / SUMS).read_text(encoding="utf-8") if (folder / SUMS).is_file() else ""
    put(folder / SUMS, f"{before}{digest}  {file}\n")
