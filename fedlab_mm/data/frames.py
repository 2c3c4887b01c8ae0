"""Data that you hold as pandas frames."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedlab_mm.data.build import check_modality
from fedlab_mm.data.columns import as_text, interactions_of, items_of
from fedlab_mm.data.preparation import Preparation, Raw
from fedlab_mm.data.prepare import prepare, warn_of_ratings
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import Dataset


def from_frames(
    interactions: pd.DataFrame,
    items: pd.DataFrame | None = None,
    features: Mapping[str, Any] | None = None,
    name: str = "frames",
    **options: Any,
) -> Dataset:
    """A dataset from frames, prepared as a folder of the same content is.

    Args:
        interactions: user, item, timestamp (dates, or whole numbers since 1970 in any unit from seconds to
            nanoseconds); split and rating if there are any. Columns go by other names too, as `user_id` or `movieId`.
        items: item; title, text, and image (a file's path) if there are any. Without it, the items are those that
            somebody interacted with.
        features: ready ones: modality -> array or tensor [I, d], a row for each row of `items`; a row that is NaN
            throughout is a missing one.
        name: of the dataset.
        options: as `load` takes them: core, fewest, split, min_rating, …

    Raises:
        FedlabError: a column that is missing or ambiguous, an unknown item, features that do not fit, …

    >>> days = pd.date_range("2024-05-31", periods=6)
    >>> data = from_frames(pd.DataFrame({"user_id": [7, 7, 7, 8, 8, 8], "movieId": [5, 3, 9, 3, 5, 9], "date": days}))
    >>> data.items["id"].tolist(), data.target_U("test").tolist(), data.about["read as"]
    (['3', '5', '9'], [2, 2], 'user_id as user, movieId as item, date as timestamp, times as dates ...')
    """
    how = Preparation().but(**options)
    log, understood = interactions_of(as_text(interactions, "interactions"), "interactions")
    catalogue = "interactions" if items is None else "items"
    if items is None:
        if features:
            raise FedlabError(f"{', '.join(features)} need items, whose rows say which item each row of features is")
        table = pd.DataFrame({"item": log["item"].unique()})
    else:
        table, more = items_of(as_text(items, "items"), "items")
        understood += more
    if "image" in table:
        paths = [Path(name.strip()) if name.strip() else None for name in table["image"]]
        table = table.assign(image=pd.Series(paths, index=table.index, dtype=object))
    if "title" not in table:
        table = table.assign(title=table.get("text", ""))
    ready = {modality: _array(modality, feature, len(table)) for modality, feature in (features or {}).items()}
    if how.min_rating is None:
        warn_of_ratings(name, log)
    about = {"read as": ", ".join(understood)} if understood else {}
    return prepare(name, Raw(log, table, "interactions", catalogue, ready, about=about), how)


def _array(modality: str, feature: Any, n_items: int) -> np.ndarray:
    array = feature.detach().cpu().double().numpy() if isinstance(feature, torch.Tensor) else np.asarray(feature)
    check_modality(modality)
    if array.dtype.kind not in "fiu":
        raise FedlabError(f"features: {modality} holds {array.dtype}, not numbers")
    if array.ndim != 2 or len(array) != n_items or not array.shape[1]:
        told = f"has shape {list(array.shape)}, but there are {n_items} items, a row each"
        raise FedlabError(f"features: {modality} {told}")
    return array
