"""NineRec's eight target sets of short videos, with covers and titles."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from fedlab_mm.data.preparation import Preparation, Raw
from fedlab_mm.data.source import Source
from fedlab_mm.data.tables import first_row, flaw, in_seconds, named, read_feature, read_table, whole_numbers
from fedlab_mm.encoding import folder_called, pictures_of
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import SPLITS
from fedlab_mm.registry import register


class NineRec(Source):
    """One of NineRec's sets, in one of two layouts.

    The publisher's: `NAME_pair.csv` without a header (item, user, and the time where the release has it),
    `NAME_item.csv` without a header (item, Chinese title, English title), and the folder `NAME_cover` of `ITEM.jpg`.
    Which of the pair file's first two columns is the item is told by the item file. Without times, the order of rows
    is the order of time. Users with fewer than five interactions are left out, as in FedMR and FedVLR.

    FedVLR's authors': `inter.csv` (userID, itemID, rating, timestamp in ms, split_label 0 train, 1 validation, 2 test),
    `i_id_mapping.csv` (the publisher's item numbers), `image_features.npy` and `text_features.npy` (CLIP ViT-B-32, unit
    length). Titles are not among them: an item is called by its number.
    """

    folder_name: ClassVar[str]  # as the publisher spells it
    ready: ClassVar[tuple[str, ...]] = ("inter.csv", "image_features.npy", "text_features.npy", "i_id_mapping.csv")
    where_to_get = (
        "github.com/westlake-repl/NineRec, which links to it (the licence forbids passing it on), or, for KU, "
        "github.com/mtics/FedVLR"
    )
    licence = "research only; modified copies must not be offered for download"
    citation = (
        'Zhang et al., "NineRec: A Benchmark Dataset Suite for Evaluating Transferable Recommendation", TPAMI 2024'
    )
    defaults = Preparation(fewest=5)

    @classmethod
    def load(cls, root: Any = None, seed: int = 0, **options: Any):
        """Read and check the files; `seed` has no effect. Where the split is given, users are those of the split."""
        folder = cls.find(root)
        if cls._is_ready(folder) and "fewest" not in options:
            options["fewest"] = 3
        return super().load(folder, seed, **options)

    @classmethod
    def _is_ready(cls, folder: Path) -> bool:
        return all((folder / file).is_file() for file in cls.ready)

    @classmethod
    def read(cls, folder: Path) -> Raw:
        return cls._read_ready(folder) if cls._is_ready(folder) else cls._read_published(folder)

    @classmethod
    def _read_ready(cls, folder: Path) -> Raw:
        path = folder / "i_id_mapping.csv"
        ids = read_table(path, {"asin": "asin", "item": "itemID"})
        ids = ids.assign(number=whole_numbers(ids["item"], "itemID", path)).sort_values("number")
        if ids["number"].tolist() != list(range(len(ids))):
            raise FedlabError(f"{path}: itemID is not 0 to {len(ids) - 1}, each once")
        items = pd.DataFrame({"item": ids["number"].to_numpy(), "title": [f"video {a}" for a in ids["asin"]]})
        path = folder / "inter.csv"
        columns = {"user": "userID", "item": "itemID", "timestamp": "timestamp", "split": "split_label"}
        log = read_table(path, columns)
        label = whole_numbers(log["split"], "split_label", path).map(dict(enumerate(SPLITS)))
        log = log.assign(
            user=whole_numbers(log["user"], "userID", path),
            item=whole_numbers(log["item"], "itemID", path),
            timestamp=whole_numbers(log["timestamp"], "timestamp", path, per=1000),
            split=label,
        )
        features = {m: read_feature(folder / f"{m}_features.npy", len(items)) for m in ("image", "text")}
        for modality, feature in features.items():
            if problem := flaw(feature):
                raise FedlabError(f"{folder / f'{modality}_features.npy'}, {problem}; encode that item again")
        return Raw(log, items, str(path), str(folder / "i_id_mapping.csv"), features, encode=())

    @classmethod
    def _read_published(cls, folder: Path) -> Raw:
        path = folder / f"{cls.folder_name}_item.csv"
        items = read_table(path, names=_columns_of(path, ("item", "title", "english")))
        items = items.assign(item=named(items["item"], "item", path))
        if "english" in items:  # CLIP reads English
            english = items["english"].str.strip()
            items = items.assign(title=english.where(english != "", items["title"]))
        covers = pictures_of(items["item"].tolist(), folder_called(folder, f"{cls.folder_name}_cover"))
        items = items.assign(image=items["item"].map(covers))
        pair = folder / f"{cls.folder_name}_pair.csv"
        log = read_table(pair, names=_columns_of(pair, ("a", "b", "timestamp")))
        known = set(items["item"])
        item, user = ("a", "b") if log["a"].isin(known).mean() >= log["b"].isin(known).mean() else ("b", "a")
        if "timestamp" in log:
            times = whole_numbers(log["timestamp"], "timestamp", pair)
        else:
            times = pd.Series(np.arange(len(log)), index=log.index)
        log = pd.DataFrame(
            {"user": named(log[user], "user", pair), "item": named(log[item], "item", pair), "timestamp": times}
        )
        if times.median() > 1e11:  # the short-video sets count milliseconds
            log = in_seconds(log)
        return Raw(log, items.drop(columns="english", errors="ignore"), str(pair), str(path))


def _columns_of(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """As many of the names as the first row has cells."""
    first = first_row(path)
    if len(first) < 2:
        raise FedlabError(f"{path}, row 1: has one cell; there should be {len(names)}: {', '.join(names)}")
    return names[: len(first)] + tuple(f"more{n}" for n in range(len(first) - len(names)))


for _folder in ("KU", "QB", "TN", "DY", "Bili_Food", "Bili_Dance", "Bili_Movie", "Bili_Cartoon"):
    _name = _folder.lower().replace("_", "-")
    _published = (f"{_folder}_pair.csv", f"{_folder}_item.csv")
    _own = {"name": _name, "folder_name": _folder, "layouts": (NineRec.ready, _published), "__doc__": NineRec.__doc__}
    register("dataset", _name)(type(_folder, (NineRec,), _own))
