"""An encoder that needs nothing but this file.

`OfflineEncoder` is an h that needs no weights and no download: colour and gradient histograms for pictures, hashed
TF-IDF for titles, each through a fixed random projection. It knows far less than a foundation model, but the same on
every machine, to the bit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import sparse

from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import register

# Why whole numbers: floating-point sums depend on the order in which a machine's BLAS adds, whole numbers below 2^53 do
# not. Histograms, weights and projections are therefore scaled to integers, and only the last division rounds.
_SCALE = 1 << 10
_SIDE = 64
_CELLS = 4


@register("encoder", "offline")
class OfflineEncoder:
    """Pictures and titles to unit vectors of `width`, the same on every machine.

    Args:
        width: the length of the vectors (512, as OpenCLIP's ViT-B-32).
        seed: of the two random projections.

    >>> encoder = OfflineEncoder(width=512)
    >>> titles = encoder.encode_texts(["quiet orbit", "loud orbit", "bread oven"])
    >>> bool(titles[0] @ titles[1] > titles[0] @ titles[2])
    True
    """

    texts_alone = False  # idf weighs a word by all texts at hand

    def __init__(self, width: int = 512, seed: int = 0):
        self.width, self.seed = width, seed

    @classmethod
    def named(cls, rest: str, device: str) -> "OfflineEncoder":
        """By what stands behind its name and a colon: nothing."""
        if rest:
            raise FedlabError(
                f"unknown encoder 'offline:{rest}': there are: auto, offline, openclip, openclip:MODEL/WEIGHTS"
            )
        return cls()

    @property
    def identity(self) -> dict[str, Any]:
        return {"encoder": "offline", "width": self.width, "seed": self.seed, "version": 1}

    def encode_images(self, images: Sequence[np.ndarray | Image.Image]) -> np.ndarray:
        """float32 [len(images), width], rows of length one.

        A picture becomes 64 × 64, then a histogram of its colours (16 hues × 2 saturations × 2 values) and one of its
        gradients (8 directions in each of 4 × 4 cells), under a square root, which keeps a large background from
        drowning the rest.
        """
        return self.encode_prepared([self.prepare(image) for image in images])

    def prepare(self, picture: np.ndarray | Image.Image) -> np.ndarray:
        """A picture's two histograms, one after the other, as whole numbers."""
        return _histograms(_as_picture(picture))

    def encode_prepared(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        if not len(prepared):
            return np.zeros((0, self.width), dtype=np.float32)
        return self._project(sparse.csr_matrix(np.stack(prepared)), salt=1)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), width], rows of length one; a text without a word is all zeros.

        Words are hashed to 4,096 signed counts and weighted by idf = ln((1 + n) / (1 + df)) + 1 over these texts.
        """
        from sklearn.feature_extraction.text import HashingVectorizer

        if not len(texts):
            return np.zeros((0, self.width), dtype=np.float32)
        counts = HashingVectorizer(n_features=4096, norm=None, alternate_sign=True).transform(texts)
        n_texts_with = np.bincount(counts.indices, minlength=counts.shape[1])
        idf = np.rint(_SCALE * (np.log((1 + len(texts)) / (1 + n_texts_with)) + 1))
        return self._project(counts.multiply(idf).tocsr(), salt=2)

    def _project(self, counts: sparse.csr_matrix, salt: int) -> np.ndarray:
        """Random signs keep angles in expectation (Achlioptas 2003), and keep whole numbers whole."""
        signs = 2 * np.random.default_rng([self.seed, salt]).integers(0, 2, (counts.shape[1], self.width)) - 1
        vectors = np.asarray(counts.astype(np.float64) @ signs.astype(np.float64))
        lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
        return (vectors / np.maximum(lengths, 1)).astype(np.float32)


def _as_picture(image: np.ndarray | Image.Image) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise FedlabError(f"a picture is uint8 [height, width, 3] or a PIL image, not {image.dtype} {image.shape}")
        image = Image.fromarray(image)
    image = image.convert("RGB")
    return image if image.size == (_SIDE, _SIDE) else image.resize((_SIDE, _SIDE), Image.Resampling.BOX)


def _histograms(picture: Image.Image) -> np.ndarray:
    hue, saturation, value = np.moveaxis(np.asarray(picture.convert("HSV")).astype(np.int64), 2, 0)
    bins = (hue // 16 * 2 + saturation // 128) * 2 + value // 128
    colours = np.bincount(bins.ravel(), minlength=64)

    grey = np.asarray(picture.convert("L")).astype(np.int64)
    dx = grey[1:-1, 2:] - grey[1:-1, :-2]
    dy = grey[2:, 1:-1] - grey[:-2, 1:-1]
    # Eight directions from three comparisons, instead of an arctangent that could round differently.
    octant = 4 * (dx < 0) + 2 * (dy < 0) + (np.abs(dx) < np.abs(dy))
    cell = np.arange(_SIDE - 2) * _CELLS // (_SIDE - 2)
    place = (cell[:, None] * _CELLS + cell) * 8 + octant
    gradients = np.bincount(place.ravel(), weights=(np.abs(dx) + np.abs(dy)).ravel(), minlength=8 * _CELLS**2)

    def root(histogram: np.ndarray) -> np.ndarray:
        histogram = histogram.astype(np.int64)
        return np.floor(np.sqrt(histogram * _SCALE**2 // max(int(histogram.sum()), 1)))

    return np.concatenate([root(colours), root(gradients)])
