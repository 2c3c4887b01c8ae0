"""Opening pictures that somebody else made: only known formats, never larger than agreed, never half."""

import threading
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fedlab_mm.errors import FedlabError

MAX_PIXELS = 64_000_000  # 8,000 × 8,000; an RGB picture of that size takes 192 MB once it is decoded
MAX_RATIO = 100  # of the sides: an encoder scales the short one to 224 pixels or so, and the long one by as much
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
# Pillow knows some forty formats, a few of which call other programs; these do not.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


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
        with Image.open(path, formats=FORMATS) as picture:
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
            return _rgb(ImageOps.exif_transpose(picture))
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
        raise UnreadableImage(path, f"not a picture in one of {', '.join(FORMATS)}") from None
    except MemoryError:
        raise UnreadableImage(path, "does not fit the memory") from None
    except Exception as error:  # a damaged file can fail anywhere in a decoder, with any kind of error
        raise UnreadableImage(path, f"cannot be decoded ({str(error) or type(error).__name__})") from None


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
    """The pictures of a folder by their names without the ending; empty where there is no such folder. Of two with one
    name the first counts."""
    if not folder.is_dir():
        return {}
    found = sorted((p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "."), reverse=True)
    return {p.stem: p for p in found}


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
