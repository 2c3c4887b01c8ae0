"""KU, the smallest of NineRec's short-video sets, with OpenCLIP features of covers and titles."""

from pathlib import Path

import pandas as pd

from fedlab_mm.data.build import build, find_folder, read_feature, read_table
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import SPLITS, Dataset
from fedlab_mm.registry import register


@register("dataset", "ku")
class KU:
    """204 users, 560 items, 3,484 interactions once five repeated pairs are dropped; split by its publisher.

    Files, as FedVLR's authors ship them: `inter.csv` (userID, itemID, rating, timestamp in ms, split_label 0 train,
    1 validation, 2 test), `image_features.npy` and `text_features.npy` (CLIP ViT-B-32, float16 [560, 512], unit
    length), `i_id_mapping.csv` (the publisher's item numbers). Titles are not among them: an item is called by its
    number.

    Source: Zhang et al., "NineRec: A Benchmark Dataset Suite for Evaluating Transferable Recommendation", TPAMI 2024.
    """

    files = ("inter.csv", "image_features.npy", "text_features.npy", "i_id_mapping.csv")
    where_to_get = "github.com/mtics/FedVLR (KU) or github.com/westlake-repl/NineRec"

    @classmethod
    def load(cls, root: str | Path | None = None, seed: int = 0) -> Dataset:
        """Read and check the files; `seed` has no effect, for nothing is drawn."""
        folder = find_folder("ku", cls.files, cls.where_to_get, root)
        ids = read_table(folder / "i_id_mapping.csv", asin="asin", item="itemID").sort_values("item")
        if ids["item"].tolist() != list(range(len(ids))):
            raise FedlabError(f"{folder / 'i_id_mapping.csv'}: itemID is not 0 to {len(ids) - 1}, each once")
        items = pd.DataFrame({"item": range(len(ids)), "title": [f"video {a}" for a in ids["asin"]]})
        log = read_table(folder / "inter.csv", user="userID", item="itemID", timestamp="timestamp", split="split_label")
        log["split"] = log["split"].map(dict(enumerate(SPLITS)))
        log["timestamp"] = pd.to_numeric(log["timestamp"], errors="coerce") // 1000
        features = {m: read_feature(folder / f"{m}_features.npy", len(items)) for m in ("image", "text")}
        return build("ku", log, items, features, source=str(folder / "inter.csv"))
