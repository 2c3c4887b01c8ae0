"""KuaiRand-Pure: what Kuaishou's users were shown, some of it at random, and whether they clicked."""

from pathlib import Path

import pandas as pd

from fedlab_mm.data.clicks import ClickSource, attributes, showings
from fedlab_mm.data.fetch import Download
from fedlab_mm.data.tables import read_table
from fedlab_mm.registry import register

_LOGS = ("log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv")
_USER = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{n}" for n in range(18)),
)
_ITEM = ("author_id", "video_type", "upload_type", "music_type", "tag")


@register("dataset", "kuairand-pure")
class KuaiRandPure(ClickSource):
    """The two standard logs (user_id, video_id, time_ms, is_click), `user_features_pure.csv` and
    `video_features_basic_pure.csv`. The statistics of videos are left out: they were counted over the whole time, and
    so know how a video did after a showing."""

    name = "kuairand-pure"
    files = (*_LOGS, "user_features_pure.csv", "video_features_basic_pure.csv")
    where_to_get = "kuairand.com (zenodo.org/records/10439422)"
    licence = "CC BY-SA 4.0"
    citation = (
        "Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM 2022, "
        "doi.org/10.1145/3511808.3557624"
    )
    # The publisher names no SHA-256; the first download's holds from then on.
    downloads = (
        Download(
            ("https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",),
            None,
            {f"KuaiRand-Pure/data/{file}": file for file in files},
        ),
    )

    @classmethod
    def read_clicks(cls, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, str]:
        columns = {"user": "user_id", "item": "video_id", "timestamp": "time_ms", "click": "is_click"}
        logs = [showings(folder / file, columns) for file in _LOGS]
        users, items = folder / "user_features_pure.csv", folder / "video_features_basic_pure.csv"
        return (
            pd.concat(logs, ignore_index=True),
            attributes(read_table(users), "user_id", _USER, users),
            attributes(read_table(items), "video_id", _ITEM, items),
            f"{folder / _LOGS[0]} and {_LOGS[1]}",
        )
