"""Opening pictures that somebody else made: only known formats, never larger than agreed, never half."""

import os
import threading
import unicodedata
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from fedlab_mm.errors import FedlabError

MAX_PIXELS = 64_000_000  # 8,000 × 8,000; an RGB picture of that size takes 192 MB once it is decoded
MAX_RATIO = 100  # of the sides: an encoder scales the short one to 224 pixels or so, and the long one by as much
# Pillow knows some forty formats, a few of which call other programs, or open what is within them in any format; these
# do not. The last two come with packages of their own (pillow-heif, pillow-jxl-plugin) that somebody has imported.
FORMATS = tuple("JPEG PNG WEBP GIF BMP AVIF TIFF JPEG2000 PPM QOI TGA PCX SGI DIB HEIF JXL".split())


_TURNS = {  # EXIF's orientations
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(FedlabError):
    """A picture that is not there, not whole, not a picture, or too large; `reason` says which."""

    def __init__(self, path: Path | str, reason: str):
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


def open_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as RGB, upright, the first frame of an animation; transparent parts on white.

    The size in the file's header is looked at before anything is decoded, so that a small file cannot unfold into
    gigabytes.

    Raises:
        UnreadableImage: no file, no picture, cut off, more than `max_pixels`, or `MAX_RATIO` times as long as wide.
    """
    try:
        with Image.open(path, formats=formats()) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise UnreadableImage(
                    path, f"refused: {width} × {height} pixels are more than {max_pixels:,}; make it smaller"
                )
            if max(width, height) > MAX_RATIO * min(width, height):
                raise UnreadableImage(
                    path, f"refused: {width} × {height} pixels: one side is more than {MAX_RATIO} times the other"
                )
            picture.load()
            return _rgb(_upright(picture))
    except UnreadableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's own limit: it warns, which a user may have made an error, and raises at twice its size. The warning
        # is left alone, for filters belong to all threads.
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise UnreadableImage(path, f"refused: more than {limit:,} pixels; make it smaller") from None
    except FileNotFoundError:
        raise UnreadableImage(path, "there is no such file") from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, f"not a picture in one of {', '.join(formats())}") from None
    except MemoryError:
        raise UnreadableImage(path, "does not fit the memory") from None
    except Exception as error:  # a damaged file can fail anywhere in a decoder, with any kind of error
        raise UnreadableImage(path, f"cannot be decoded ({str(error) or type(error).__name__})") from None


def formats() -> list[str]:
    """The formats that are read: those of `FORMATS` that Pillow knows here."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def suffixes() -> set[str]:
    """The endings of their files, in small letters."""
    read = formats()
    return {ending for ending, name in Image.registered_extensions().items() if name in read or name == "MPO"}


def _upright(picture: Image.Image) -> Image.Image:
    """The picture as its EXIF turns it, or, where that cannot be read, as it is stored: the pixels are whole.

    `ImageOps.exif_transpose` also writes the rest of the EXIF anew, and of that a broken part fails: in Pillow 11.0
    coordinates of 0/0, as telephones write that do not know where they are.
    """
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's versions fail in many ways
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip
        values, clear = np.asarray(picture), picture.info.get("transparency", -1)
        grey = np.rint(values / np.float32(257)).clip(0, 255)  # 65,535 is white
        return Image.fromarray(np.where(values == clear, 255, grey).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


def pictures_in(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without the ending, as NFC; empty where there is no such folder. Of two
    with one name the first counts."""
    if not folder.is_dir():
        return {}
    read = suffixes()
    found = sorted((p for p in folder.iterdir() if p.suffix.lower() in read and p.name[0] != "."), reverse=True)
    return {nfc(p.stem): p for p in found}


def nfc(name: str) -> str:
    """A name as most systems write it: macOS may give "é" as two characters.

    >>> len(nfc("e\u0301"))
    1
    """
    return unicodedata.normalize("NFC", name)


def files_in(folder: Path) -> list[Path]:
    """All files beneath a folder, the least deep first, then by name; none that is hidden."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and name != "__MACOSX"]
        found += [Path(place, name) for name in files if name[0] != "."]
    return sorted(found, key=lambda path: (len(path.parts), path.parts))


def folder_called(parent: Path, name: str) -> Path:
    """The folder of that name, in whatever case it is written; of several the one that is written so."""
    if not (parent / name).is_dir() and parent.is_dir():
        alike = sorted(p for p in parent.iterdir() if p.name.casefold() == name.casefold() and p.is_dir())
        return [*alike, parent / name][0]
    return parent / name


def _without_zeros(name: str) -> str:
    return (name.lstrip("0") or "0") if name.isascii() and name.isdecimal() else name


# How an item and the name of its picture may differ, the nearest first.
_NEAR = (str, nfc, lambda name: nfc(name).casefold(), lambda name: _without_zeros(nfc(name).casefold()))


def pictures_of(
    items: Sequence[str], folder: Path, others: Collection[str] = (), taken: Collection[Path] = ()
) -> dict[str, Path]:
    """Items' pictures by the names of the files in a folder, and in those within it: item -> file.

    A file belongs to the item that it is named by; if there is none, to the only one whose name differs from its own in
    how accents are written, or in case too, or in leading zeros too ("00001.jpg" for item 1). Of an item's several
    files that with the nearest name counts, then the least deep, then the first. A warning tells of files that are left
    over, and of items with none but files of other kinds.

    Args:
        others: further items, whose pictures may be there but are not asked for.
        taken: files that are spoken for.
    """
    files, read, used = files_in(folder), suffixes(), set(taken)
    left = [path for path in files if path.suffix.lower() in read and path not in used]
    every = list(dict.fromkeys([*items, *others]))
    found: dict[str, Path] = {}
    second: list[Path] = []
    for near in _NEAR:
        if not left:
            break
        named: dict[str, list[str]] = {}
        for item in every:
            named.setdefault(near(item), []).append(item)
        rest = []
        for path in left:
            alike = named.get(near(path.stem), [])
            if len(alike) != 1:
                rest.append(path)
            elif alike[0] in found:
                second.append(path)
            else:
                found[alike[0]] = path
        left = rest
    lacking = {nfc(item).casefold() for item in items if item not in found}
    unread = [p for p in files if p.suffix.lower() not in read and nfc(p.stem).casefold() in lacking and p not in used]
    told = [
        _told(left, folder, "picture matches no item, or several", "pictures match no item, or several"),
        _told(
            second, folder, "picture is its item's second and not used", "pictures are their items' second, not used"
        ),
        _told(
            unread, folder, "file is named as an item and cannot be read", "files are named as items and cannot be read"
        ),
    ]
    if any(told):
        warnings.warn(f"{folder}: {'; '.join(filter(None, told))}", stacklevel=2)
    wanted = set(items)
    return {item: path for item, path in found.items() if item in wanted}


def _told(files: Sequence[Path], folder: Path, one: str, many: str) -> str:
    if not files:
        return ""
    first = files[0].relative_to(folder).as_posix()
    return f"{len(files):,} {one if len(files) == 1 else many} ({'' if len(files) == 1 else 'first: '}{first})"


class Covers:
    """Items' pictures, opened when they are looked at: `covers[item]` is uint8 [height, width, 3], no side above
    `side`; a grey square where there is none."""

    def __init__(self, paths: Sequence[Path | None], side: int = 128):
        self.paths, self.side = list(paths), side
        self._opened: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> np.ndarray:
        item = int(item)
        if not 0 <= item < len(self.paths):
            raise IndexError(item)
        with self._lock:
            if item not in self._opened:
                self._opened[item] = self._open(self.paths[item])
            return self._opened[item]

    def _open(self, path: Path | None) -> np.ndarray:
        try:
            if path is None:
                raise UnreadableImage("", "no picture")
            picture = open_image(path)
            picture.thumbnail((self.side, self.side))
            return np.asarray(picture)
        except UnreadableImage:
            return np.full((self.side, self.side, 3), 225, dtype=np.uint8)


def inside(folder: Path, name: str) -> Path | None:
    """The file called `name` in `folder`, as far as its name goes; None if the name leads out of the folder.

    A table may come from Windows: backslashes separate, and drives lead out, on every system.
    """
    known = PureWindowsPath(name)
    if not known.parts or known.anchor or ".." in known.parts or "\0" in name:
        return None
    return folder.joinpath(*known.parts)
