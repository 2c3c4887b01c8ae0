"""Amazon Reviews 2023, any category: who reviewed what, with titles and the addresses of pictures."""

import os
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from fedlab_mm.data.fetch import Download
from fedlab_mm.data.preparation import Preparation, Raw
from fedlab_mm.data.source import Source
from fedlab_mm.data.tables import as_name, as_number, as_time, in_seconds, read_lines
from fedlab_mm.encoding import clean_text, folder_called, pictures_of
from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import register

_HOSTS = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw",
    "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_2023/raw",
)


@register("dataset", "amazon")
class Amazon(Source):
    """A category, "amazon:All_Beauty" or "amazon:Gift_Cards" or any other: `CATEGORY.jsonl` (user_id, parent_asin,
    rating, timestamp in ms) and `meta_CATEGORY.jsonl` (parent_asin, title, images), each plain or as `.jsonl.gz`.

    A review is an interaction, an item is its `parent_asin`. Pictures are files `images/PARENT_ASIN.jpg`; the metadata
    name their addresses, and `fedlab-mm data fetch amazon:CATEGORY --pictures` brings them. 5-core by default. A
    reviewed item without metadata has no title.
    """

    name = "amazon"
    where_to_get = "amazon-reviews-2023.github.io (review and metadata file of the category)"
    licence = "research use; reviews and pictures belong to their authors"
    citation = "Hou et al., Bridging Language and Items for Retrieval and Recommendation, arXiv:2403.03952"
    defaults = Preparation(core=5)

    @classmethod
    def of(cls, part: str) -> "type[Amazon]":
        """The class of one category."""
        if not part or not part.replace("_", "").isalnum() or not part.isascii():
            raise FedlabError(f"category '{part}': write it as the publisher does, as in amazon:All_Beauty")
        ends = {"reviews": f"review_categories/{part}.jsonl.gz", "meta": f"meta_categories/meta_{part}.jsonl.gz"}
        downloads = tuple(Download(tuple(f"{host}/{end}" for host in _HOSTS)) for end in ends.values())
        kinds = ("jsonl", "jsonl.gz")  # each of the two files by itself
        files = tuple((f"{part}.{reviews}", f"meta_{part}.{meta}") for reviews in kinds for meta in kinds)
        return type(part, (cls,), {"name": f"amazon-{part}", "layouts": files, "downloads": downloads})

    @classmethod
    def find(cls, root: str | os.PathLike[str] | None = None) -> Path:
        if not cls.layouts:
            raise FedlabError("dataset 'amazon': name a category, as in amazon:All_Beauty or amazon:Gift_Cards")
        return super().find(root)

    @classmethod
    def read(cls, folder: Path) -> Raw:
        reviews, meta = cls._files(folder)
        rows: list[tuple[str, str, int, float]] = []
        numbers, incomplete = [], 0
        for line, record in tqdm(read_lines(reviews), desc=reviews.name, unit="review", delay=1):
            user, item = as_name(record.get("user_id")), as_name(record.get("parent_asin"))
            time = as_time(record.get("timestamp"))
            if user is None or item is None or time is None:
                incomplete += 1
                continue
            rows.append((user, item, time, as_number(record.get("rating"))))
            numbers.append(line)
        if not rows:
            raise FedlabError(f"{reviews}: none of its {incomplete} reviews has a user, an item and a time")
        log = in_seconds(pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating"], index=numbers))
        titles, _ = cls.catalogue(meta)
        wanted = dict.fromkeys(log["item"])
        images = pictures_of(list(wanted), folder_called(folder, "images"), others=list(titles))
        items = pd.DataFrame({"item": list(wanted), "title": [titles.get(i, "") for i in wanted]})
        items = items.assign(image=items["item"].map(images))
        dropped = {"reviews without user, item or time": incomplete}
        return Raw(log, items, str(reviews), str(meta), dropped=dropped)

    @classmethod
    def _files(cls, folder: Path) -> tuple[Path, Path]:
        """The review and the metadata file, in whichever layout they are there."""
        for reviews, meta in cls.layouts:
            if (folder / reviews).is_file() and (folder / meta).is_file():
                return folder / reviews, folder / meta
        raise FedlabError(f"{folder} lacks {' and '.join(cls.layouts[0])}")

    @classmethod
    def pictures(cls, folder: Path) -> dict[str, str]:
        """The address of the main picture of every item that the metadata name."""
        return cls.catalogue(cls._files(folder)[1])[1]

    @classmethod
    def catalogue(cls, meta: Path) -> tuple[dict[str, str], dict[str, str]]:
        """Item -> title, and item -> the address of its main picture."""
        titles, pictures = {}, {}
        for _, record in tqdm(read_lines(meta), desc=meta.name, unit="item", delay=1):
            item, title, images = as_name(record.get("parent_asin")), record.get("title"), record.get("images")
            if item is None:
                continue
            titles[item] = clean_text(title) if isinstance(title, str) else ""
            shown = [i for i in images if isinstance(i, dict)] if isinstance(images, list) else []
            main = next((i for i in shown if i.get("variant") == "MAIN"), shown[0] if shown else {})
            url = next((main[size] for size in ("large", "hi_res", "thumb") if isinstance(main.get(size), str)), None)
            if url:
                pictures[item] = url
        return titles, pictures
