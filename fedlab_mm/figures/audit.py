"""What one should know of KU before believing a figure on it."""

from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm import plotting
from fedlab_mm.audit import audit_tables
from fedlab_mm.figures.base import Exhibit
from fedlab_mm.registry import register


class Audit(Exhibit):
    """One table of `audit_tables`."""

    source = "none: the papers do not ask"
    part: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        return {"table": self.part, "k": 50, "split": "test"}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        return audit_tables(data)[self.part].reset_index()


@register("figure", "audit-ku-ties")
class Ties(Audit):
    part = "ties"
    caption = (
        "HR@50 and NDCG@50 on KU where tied items are ranked in expectation, and where the lower item number comes "
        "first. The constant scorer's pair under the latter, 0.5539 and 0.1597, is printed in two papers for a trained "
        "model."
    )

    def draw(self, table: pd.DataFrame) -> Figure:
        long = table.melt("scorer", [c for c in table if "@" in str(c)])
        long[["metric", "variant"]] = long["variable"].str.split(" ", n=1, expand=True)
        wide = long.pivot_table(index=["scorer", "variant"], columns="metric", values="value", sort=False).reset_index()
        return plotting.plot_variants(wide, ("hr@50", "ndcg@50"), group="scorer")


@register("figure", "audit-ku-rules")
class Rules(Audit):
    part = "rules"
    caption = "Test targets of KU that rules find within 50 which look at nobody's taste."

    def draw(self, table: pd.DataFrame) -> Figure:
        rules = table[table["what"].str.startswith("first ")].set_index("what")["share"]
        return plotting.plot_rules(rules.rename(lambda name: name.split(" by ")[-1]), 50)


@register("figure", "audit-ku-numbers")
class Numbers(Audit):
    part = "numbers"
    caption = "Along KU's item numbers: the share of test targets and of training interactions in each block of 50."

    def draw(self, table: pd.DataFrame) -> Figure:
        return plotting.plot_numbers({"KU": table.set_index("from number")})


@register("figure", "audit-ku-activity")
class Activity(Audit):
    part = "activity"
    caption = "NDCG@50 on KU by users' activity, ties in expectation, with 95 % intervals over users."

    def draw(self, table: pd.DataFrame) -> Figure:
        part = table[(table["ties"] == "expected") & (table["metric"] == "ndcg@50")]
        groups = part.rename(columns={"training items": "group"})
        return plotting.plot_groups(groups, "test NDCG@50", "training interactions of a user")


@register("figure", "audit-ku-baselines")
class Baselines(Audit):
    part = "baselines"
    caption = "NDCG@50 of simple recommenders on KU by kind of target, with 95 % intervals over users."

    def draw(self, table: pd.DataFrame) -> Figure:
        part = table[table["metric"] == "ndcg@50"].rename(columns={"targets": "group"})
        return plotting.plot_groups(part, "test NDCG@50", "targets")


@register("figure", "audit-ku-power")
class Power(Audit):
    part = "power"
    caption = (
        "The smallest difference of NDCG@50 that so many users show (two-sided test at 5 %, chance of 80 %), where two "
        "recommenders are compared user by user, and where only their figures are known."
    )

    def draw(self, table: pd.DataFrame) -> Figure:
        return plotting.plot_power(table.set_index("metric"), "ndcg@50", 0.02)
