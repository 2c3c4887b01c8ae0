"""Features that were computed once: vectors by the hash of what they were made from.

One folder for each encoder identity holds, for pictures and for texts, a safetensors file (`hashes` uint8 [N, 32] and
`vectors` float32 [N, d], sorted by hash) and a manifest in JSON that says what made them. A file is replaced as a whole
under a lock, so that two processes may add to it at once and a crash leaves the last whole one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedlab_mm.errors import FedlabError
from fedlab_mm.files import put, whole


def cache_folder() -> Path:
    """$FEDLAB_MM_CACHE, else the user's cache folder."""
    given = os.environ.get("FEDLAB_MM_CACHE")
    return Path(os.path.expanduser(given)) if given else platformdirs.user_cache_path("fedlab_mm", appauthor=False)


class FeatureCache:
    """The kept vectors of one encoder.

    Args:
        identity: what decides a vector beside the item (`Encoder.identity`).
        folder: where caches live; `cache_folder()` by default.

    >>> import tempfile
    >>> cache = FeatureCache({"encoder": "example"}, tempfile.mkdtemp())
    >>> cache.add("image", {b"0" * 32: np.ones(3, dtype=np.float32)})
    >>> sorted(cache.read("image")) == [b"0" * 32]
    True
    """

    def __init__(self, identity: Mapping[str, Any], folder: str | os.PathLike[str] | None = None):
        self.identity = dict(identity)
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        base = Path(folder) if folder is not None else cache_folder()
        self.folder = base / "features" / f"{self.identity.get('encoder', 'encoder')}-{key}"

    def read(self, kind: str) -> dict[bytes, np.ndarray]:
        """Every kept vector of "image" or "text", by content hash; a damaged file counts as empty and is made anew."""
        path = self.folder / f"{kind}.safetensors"
        if not path.is_file():
            return {}
        try:
            kept = load_file(path)
            hashes, vectors = kept["hashes"], kept["vectors"]
        except Exception:  # what a damaged file fails with depends on where it is damaged
            return {}
        if (hashes.dtype, vectors.dtype, vectors.ndim) != (np.uint8, np.float32, 2):
            return {}
        if hashes.shape != (len(vectors), 32) or not np.isfinite(vectors).all():
            return {}
        return {h.tobytes(): v for h, v in zip(hashes, vectors, strict=True)}

    def add(self, kind: str, vectors: Mapping[bytes, np.ndarray]) -> None:
        """Keep more vectors, beside those that others have added meanwhile."""
        if not vectors:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{kind}.lock"):
                every = self.read(kind) | dict(vectors)
                hashes = sorted(every)
                if len(widths := sorted({len(v) for v in every.values()})) > 1:
                    raise FedlabError(
                        f"{self.folder}: holds vectors of another width ({' and '.join(map(str, widths))}): an "
                        "encoder's identity must tell apart whatever makes its vectors differ"
                    )
                together = np.stack([every[h] for h in hashes]).astype(np.float32)
                table: dict[str, np.ndarray] = {
                    "hashes": np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 32),
                    "vectors": together,
                }
                about = {**self.identity, "kind": kind, "count": len(hashes), "width": together.shape[1]}
                with whole(self.folder / f"{kind}.safetensors") as partial:
                    save_file(table, partial)
                put(self.folder / f"{kind}.json", json.dumps(about, indent=2))
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise FedlabError(
                f"{self.folder}: features cannot be kept there ({reason}); set FEDLAB_MM_CACHE to a folder that can be "
                "written"
            ) from None
