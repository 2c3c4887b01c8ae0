"""KuaiSAR: what Kuaishou's users were shown by recommendation (R) and by search (S), and whether they clicked."""

from pathlib import Path
from typing import ClassVar

import pandas as pd

from fedlab_mm.data.clicks import ClickSource, attributes, showings
from fedlab_mm.data.fetch import Download
from fedlab_mm.data.tables import read_table
from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import register

_USER = ("onehot_feat1", "onehot_feat2", "search_active_level", "reco_active_level")
_LEVELS = ("first", "second", "third", "fourth")
_ITEM = ("item_type", "upload_type", *(f"{level}_level_category_name" for level in _LEVELS))
_LICENCE = "CC BY-NC-SA 4.0"
_CITATION = (
    "Sun et al., KuaiSAR: A Unified Search And Recommendation Dataset, CIKM 2023, doi.org/10.1145/3583780.3615123"
)


class _Prepared(ClickSource):
    """As prepared for MRFF: `df.csv` (user_id, video_id, timestamp in ms, is_click), `user_features.csv` and
    `video_features.csv`, of which the columns named in `NAME_user_feature_dict.txt` and `NAME_video_feature_dict.txt`
    are attributes. 1,791 users, 69,704 videos and 117,590 showings in KuaiSAR-R; each user's last row is the test
    target."""

    files = ("df.csv", "user_features.csv", "video_features.csv")
    where_to_get = "kuaisar.github.io, prepared as the authors of MRFF do"
    licence, citation = _LICENCE, _CITATION

    @classmethod
    def read_clicks(cls, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, str]:
        path = folder / "df.csv"
        log = showings(path, {"user": "user_id", "item": "video_id", "timestamp": "timestamp", "click": "is_click"})
        tables = []
        for what, standard in (("user", _USER), ("video", _ITEM)):
            of = folder / f"{what}_features.csv"
            tables.append(attributes(read_table(of), f"{what}_id", cls._named(folder, what) or standard, of))
        return log, tables[0], tables[1], str(path)

    @staticmethod
    def _named(folder: Path, what: str) -> list[str]:
        """The attributes that a list beside the table names."""
        lists = sorted(folder.glob(f"*_{what}_feature_dict.txt"))
        if not lists:
            return []
        try:
            named = lists[0].read_text(encoding="utf-8").split()
        except (OSError, UnicodeError) as error:
            raise FedlabError(f"{lists[0]}: cannot be read ({error})") from None
        return [name for name in dict.fromkeys(named) if name != f"{what}_id"]


@register("dataset", "kuaisar-r")
class KuaiSARR(_Prepared):
    __doc__ = _Prepared.__doc__
    name = "kuaisar-r"


@register("dataset", "kuaisar-s")
class KuaiSARS(_Prepared):
    __doc__ = _Prepared.__doc__
    name = "kuaisar-s"


@register("dataset", "kuaisar")
class KuaiSAR(ClickSource):
    """As published (the small release): `rec_inter.csv` (user_id, item_id, timestamp in ms, click) for "kuaisar:rec",
    `src_inter.csv` (user_id, item_id, search_session_timestamp in ms, click_cnt) for "kuaisar:search", with
    `user_features.csv` and `item_features.csv`. 7.5 million recommendations: reading them takes a minute and some
    gigabytes."""

    name = "kuaisar"
    files = ("rec_inter.csv", "src_inter.csv", "user_features.csv", "item_features.csv")
    where_to_get = "kuaisar.github.io (zenodo.org/records/8181109)"
    licence, citation = _LICENCE, _CITATION
    downloads = (
        Download(
            ("https://zenodo.org/records/8181109/files/KuaiSAR.zip",),
            "ed8afa12196cbf18a719511a03b0915522c4039a6c08ce306df69aaeddb9fa1c",
            {f"KuaiSAR_final/{file}": file for file in files},
        ),
    )
    part: ClassVar[str] = "rec"
    _parts: ClassVar[dict[str, tuple[str, str, str]]] = {
        "rec": ("rec_inter.csv", "timestamp", "click"),
        "search": ("src_inter.csv", "search_session_timestamp", "click_cnt"),
    }

    @classmethod
    def of(cls, part: str) -> "type[KuaiSAR]":
        """The class of one part, "rec" or "search"."""
        if part not in cls._parts:
            raise FedlabError(f"unknown part '{part}' of kuaisar: there are: {', '.join(cls._parts)}")
        return type(f"KuaiSAR_{part}", (cls,), {"part": part})

    @classmethod
    def read_clicks(cls, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, str]:
        file, time, click = cls._parts[cls.part]
        path = folder / file
        columns = {"user": "user_id", "item": "item_id", "timestamp": time, "click": click}
        log = showings(path, columns, counted=click == "click_cnt")
        users, items = folder / "user_features.csv", folder / "item_features.csv"
        return (
            log,
            # The publisher's releases spell one column in two ways.
            attributes(
                read_table(users).rename(columns={"rec_active_level": "reco_active_level"}), "user_id", _USER, users
            ),
            attributes(read_table(items), "item_id", _ITEM, items),
            str(path),
        )
