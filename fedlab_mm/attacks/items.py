"""Which items did a client interact with?"""

import numpy as np
import pandas as pd

from fedlab_mm.attacks.report import Scene, report
from fedlab_mm.registry import register


@register("attack", "items")
def infer_items(scene: Scene) -> pd.DataFrame:
    """Which items did a client interact with? All items are ranked by what its uploads say; beside it the rank by
    popularity, which needs no upload."""
    own_UI = scene.own_UI()
    ledger = scene.watch(scene.data, scene.seed)
    rows = {"uploads": report(ledger.scores_UI(), own_UI)}
    if not ledger.secure:
        rows |= {f"uploads, {signal} only": report(ledger.scores_UI(signal), own_UI) for signal in ("touched", "side")}
    if ledger.as_seen is not None:
        rows[ledger.seen_by] = report(ledger.scores_UI("shown"), own_UI)
    popularity_UI = np.tile(scene.data.popularity_I.astype(float), (scene.data.n_users, 1))
    rows["popularity alone"] = report(popularity_UI, own_UI)
    return pd.DataFrame(rows).T
