"""From files and texts to features: only what is not in the cache is encoded, with a bar, and what cannot be is
listed."""

import hashlib
import os
import re
import time
import unicodedata
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from fedlab_mm.encoding.base import Encoder, EncoderUnavailable
from fedlab_mm.encoding.cache import FeatureCache
from fedlab_mm.encoding.images import MAX_PIXELS, UnreadableImage, open_image
from fedlab_mm.errors import FedlabError
from fedlab_mm.provenance import is_foreign, what_runs
from fedlab_mm.registry import lookup, names

SAVE_EVERY = 30.0  # seconds of encoding that a crash may cost; an interruption costs none
GROUP = 64  # items between two looks at the clock
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")  # but no white space, or words would join
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}  # Unicode's categories of what leaves no mark


@dataclass(frozen=True)
class Encoded:
    """What `encode_images` and `encode_texts` return.

    Attributes:
        vectors: float32 [I, d], zero where there was nothing to encode.
        missing_I: bool [I], true there.
        problems: row -> why a file that is there could not be read.
        from_cache: how many came from the cache; encoded: how many were encoded now; seconds: how long that took.
    """

    vectors: np.ndarray
    missing_I: np.ndarray
    problems: dict[int, str]
    from_cache: int
    encoded: int
    seconds: float

    @property
    def summary(self) -> str:
        """How many were encoded, in what time, and how many were in the cache."""
        rate = f" ({self.encoded / self.seconds:,.0f} a second)" if self.encoded and self.seconds else ""
        return f"{self.encoded:,} encoded in {self.seconds:.1f} s{rate}, {self.from_cache:,} from the cache"


def choose(encoder: "str | Encoder", device: str = "cpu") -> Encoder:
    """An encoder by name: "offline", "openclip", "openclip:MODEL/WEIGHTS" ("…/random" for random weights). An encoder
    itself is passed on. ("auto" is a choice that `encode_items` makes.)

    >>> choose("openclip:ViT-B-16/laion2b_s34b_b88k").model
    'ViT-B-16'
    """
    if not isinstance(encoder, str):
        return encoder
    name, _, rest = encoder.partition(":")
    if name not in names("encoder"):
        known = ", ".join(["auto", *names("encoder"), "openclip:MODEL/WEIGHTS"])
        raise FedlabError(f"unknown encoder '{encoder}': there are: {known}")
    return lookup("encoder", name).named(rest, device)


def encode_images(
    paths: Sequence[Path | None],
    encoder: Encoder,
    cache: FeatureCache | None = None,
    progress: bool = True,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Encoded:
    """Each picture's vector; None stands for an item without one.

    Files are decoded by `workers` threads (one for each core by default) while the model runs. Pictures with the same
    bytes are encoded once. What was encoded is kept every half minute, so that an interrupted call goes on where it
    was.
    """
    began = time.monotonic()
    missing_I = np.array([path is None for path in paths], dtype=bool)
    problems: dict[int, str] = {}
    rows: dict[bytes, list[int]] = {}
    for row, path in enumerate(paths):
        if path is None:
            continue
        try:
            with open(path, "rb") as file:
                rows.setdefault(hashlib.file_digest(file, "sha256").digest(), []).append(row)
        except (FileNotFoundError, NotADirectoryError):
            problems[row] = f"{path}: there is no such file"
        except (OSError, ValueError) as error:  # a name may be one that no file can have
            problems[row] = f"{path}: {getattr(error, 'strerror', None) or error}"

    def of(digest: bytes) -> Path:
        path = paths[rows[digest][0]]
        assert path is not None
        return path

    kept = cache.read("image") if cache is not None and rows else {}
    todo = [digest for digest in rows if digest not in kept]
    found = {digest: kept[digest] for digest in rows if digest in kept}
    n_cached = len(found)

    def prepare(digest: bytes) -> np.ndarray:
        return encoder.prepare(open_image(of(digest), max_pixels))

    saver = _Saver(cache, "image")
    bar = tqdm(total=len(todo), desc="images", unit="image", disable=not progress or not todo, delay=1)
    with saver, bar:
        for digests, prepared in _grouped(prepare, todo, workers or os.cpu_count() or 1):
            good = [n for n, p in enumerate(prepared) if not isinstance(p, UnreadableImage)]
            for n, p in enumerate(prepared):
                if isinstance(p, UnreadableImage):
                    for row in rows[digests[n]]:
                        problems[row] = f"{paths[row]}: {p.reason}"
            if good:
                vectors = _checked(encoder.encode_prepared([prepared[n] for n in good]), encoder)
                new = {digests[n]: v for n, v in zip(good, vectors, strict=True)}
                found |= new
                saver.take(new)
            bar.update(len(digests))
    missing_I[list(problems)] = True
    by_row = {row: found[digest] for digest in found for row in rows[digest]}
    return _table(by_row, len(paths), missing_I, problems, n_cached, len(found) - n_cached, began)


def encode_texts(
    texts: Sequence[str], encoder: Encoder, cache: FeatureCache | None = None, progress: bool = True
) -> Encoded:
    """Each text's vector; a text without a single visible character counts as missing."""
    began = time.monotonic()
    texts = [clean_text(text) for text in texts]
    missing_I = np.array([not text for text in texts], dtype=bool)
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        if text:
            rows.setdefault(text, []).append(row)
    # Where one text's vector depends on the others, all of them are the key of each.
    company = b"" if encoder.texts_alone else hashlib.sha256("\0".join(texts).encode()).digest()
    digests = {text: hashlib.sha256(company + text.encode()).digest() for text in rows}
    kept = cache.read("text") if cache is not None and rows else {}
    found = {text: kept[digests[text]] for text in rows if digests[text] in kept}
    n_cached = len(found)
    todo = [text for text in rows if text not in found]
    saver = _Saver(cache, "text")
    if todo and not encoder.texts_alone:
        every = _checked(encoder.encode_texts(texts), encoder)
        found = {text: every[rows[text][0]] for text in rows}
        with saver:
            saver.take({digests[text]: v for text, v in found.items()})
        n_cached = 0
    elif todo:
        with saver, tqdm(total=len(todo), desc="texts", unit="text", disable=not progress, delay=1) as bar:
            for start in range(0, len(todo), GROUP):
                group = todo[start : start + GROUP]
                vectors = _checked(encoder.encode_texts(group), encoder)
                found |= dict(zip(group, vectors, strict=True))
                saver.take({digests[text]: v for text, v in zip(group, vectors, strict=True)})
                bar.update(len(group))
    by_row = {row: vector for text, vector in found.items() for row in rows[text]}
    return _table(by_row, len(texts), missing_I, {}, n_cached, len(found) - n_cached, began)


def encode_items(
    images: Sequence[Path | None] | None,
    texts: Sequence[str] | None,
    encoder: str | Encoder = "auto",
    device: str = "cpu",
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[dict[str, Encoded], Encoder]:
    """The "image" and "text" of a catalogue by one encoder, through the cache.

    Args:
        images, texts: one for each item; None where the catalogue has no such modality.
        encoder: as `choose` takes it, or "auto": OpenCLIP's ViT-B-32 with OpenAI's weights, and the offline encoder,
            with a warning, where these cannot be had.
        cache: the folder that features are kept in; `cache_folder()` by default.

    Returns:
        modality -> Encoded, and the encoder that was used.
    """
    if encoder == "auto":
        try:
            return encode_items(images, texts, "openclip", device, cache, progress)
        except EncoderUnavailable as error:
            warnings.warn(
                f"{error}. Going on with the offline encoder: it sees colours, edges and words, not what a picture or "
                "a sentence means, so do not read its results as those of a foundation model",
                stacklevel=2,
            )
            return encode_items(images, texts, "offline", device, cache, progress)
    chosen = choose(encoder, device)
    mine = {"code": what_runs(type(chosen))} if is_foreign(type(chosen)) else {}  # an encoder may be edited
    kept = FeatureCache({**chosen.identity, **mine}, cache)
    encoded = {}
    if images is not None:
        encoded["image"] = encode_images(images, chosen, kept, progress)
    if texts is not None:
        encoded["text"] = encode_texts(texts, chosen, kept, progress)
    return encoded, chosen


def clean_text(text: object) -> str:
    """Any text as Unicode that can be written: lone surrogates and control characters go, ends are trimmed. What has no
    visible character is empty, and so are None and NaN.

    >>> clean_text(" <b>caf\\ud800é\\x00 </b> ")
    '<b>café </b>'
    """
    if text is None or text is pd.NA or text != text:
        return ""
    written = str(text).encode("utf-8", "ignore").decode("utf-8")
    clean = _CONTROL.sub("", written).strip()
    return clean if any(unicodedata.category(c) not in _UNSEEN for c in clean) else ""


class _Saver:
    """Hands what was encoded to the cache now and then, and the rest when it is left, by an error or a Ctrl-C too."""

    def __init__(self, cache: FeatureCache | None, kind: str):
        self.cache, self.kind, self.last = cache, kind, time.monotonic()
        self.waiting: dict[bytes, np.ndarray] = {}

    def __enter__(self) -> "_Saver":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def take(self, vectors: dict[bytes, np.ndarray]) -> None:
        self.waiting |= vectors
        if time.monotonic() - self.last > SAVE_EVERY:
            self.flush()

    def flush(self) -> None:
        if self.cache is not None:
            self.cache.add(self.kind, self.waiting)
        self.waiting, self.last = {}, time.monotonic()


def _grouped(
    prepare: Callable[[bytes], np.ndarray], todo: Sequence[bytes], workers: int
) -> Iterator[tuple[Sequence[bytes], list[Any]]]:
    """Groups of prepared pictures (or the error of one that cannot be read), in order, two groups ahead of whoever
    asks."""

    def attempt(digest: bytes) -> np.ndarray | UnreadableImage:
        try:
            return prepare(digest)
        except UnreadableImage as error:
            return error

    pool = ThreadPoolExecutor(workers)
    ahead: deque[tuple[Sequence[bytes], list[Future[Any]]]] = deque()
    try:
        for start in range(0, len(todo), GROUP):
            group = todo[start : start + GROUP]
            ahead.append((group, [pool.submit(attempt, digest) for digest in group]))
            if len(ahead) > 2:
                digests, futures = ahead.popleft()
                yield digests, [f.result() for f in futures]
        for digests, futures in ahead:
            yield digests, [f.result() for f in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _checked(vectors: np.ndarray, encoder: Encoder) -> np.ndarray:
    with np.errstate(over="ignore"):
        vectors = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise FedlabError(f"the encoder {encoder.identity} made a NaN or an infinity: its weights are damaged")
    return vectors


def _table(
    by_row: dict[int, np.ndarray],
    n: int,
    missing_I: np.ndarray,
    problems: dict[int, str],
    n_cached: int,
    n_encoded: int,
    began: float,
) -> Encoded:
    width = len(next(iter(by_row.values()))) if by_row else 0
    vectors = np.zeros((n, width), dtype=np.float32)
    for row, vector in by_row.items():
        vectors[row] = vector
    return Encoded(vectors, missing_I, dict(sorted(problems.items())), n_cached, n_encoded, time.monotonic() - began)
