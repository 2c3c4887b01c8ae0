"""What a task is: what is predicted, how it is judged, and what stands beside it. Everything else asks the task, and
never the class of the data."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from fedlab_mm.errors import FedlabError
from fedlab_mm.evaluation import paired_test
from fedlab_mm.federation import Federation
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup
from fedlab_mm.settings import Settings


@dataclass(frozen=True)
class Judged:
    """What a split's targets say of predictions.

    Attributes:
        metrics: name -> value, over all users.
        users: what each user got, a row for each user or showing, with a column "user".
    """

    metrics: dict[str, float]
    users: pd.DataFrame


class Task:
    """A task. A subclass registers as "task", by the name that its data carry (`Dataset.task`).

    Class attributes:
        prefix: before the names of its families: "" for "backbone", "click " for "click backbone".
        what: its methods in words; data: what its data hold; for messages.
        federation: the class of its federations.
        rivals: the simple recommenders that stand beside a comparison.
        Params: the settings that all of its methods and backbones read.
    """

    prefix: ClassVar[str]
    what: ClassVar[str]
    data: ClassVar[str]
    federation: ClassVar[type[Federation]]
    rivals: ClassVar[tuple[str, ...]] = ()
    Params: ClassVar[type[Settings]] = Settings

    def check(self, recipe: Recipe, data: Any) -> None:
        """Complain of a recipe that cannot be judged on these data."""

    def yardstick(self, recipe: Recipe) -> Any:
        """What decides how a recipe's figures are taken; a comparison has one."""
        return None

    def goal(self, recipe: Recipe) -> str:
        """The metric by which the best round is chosen, on validation."""
        raise NotImplementedError

    def judge(self, model: Any, split: str) -> Judged:
        """A trained engine, as it stands, on a split's targets."""
        raise NotImplementedError

    def judge_rival(self, name: str, data: Any, recipe: Recipe) -> Judged:
        """A simple recommender on the test targets; a recipe says how they are judged."""
        raise NotImplementedError

    def by_user(self, users: pd.DataFrame) -> list[str]:
        """The metrics in which two rows of a comparison can be paired."""
        raise NotImplementedError

    def tests(self, recipe: Recipe) -> list[tuple[str, str]]:
        """(metric, targets) of each test that a comparison with `none` shows."""
        raise NotImplementedError

    def paired(self, users: pd.DataFrame, a: str, b: str, metric: str, targets: str) -> pd.Series:
        """How much more row a has than row b, user by user (see `compare.paired`)."""
        raise NotImplementedError

    def told_targets(self, data: Any) -> str:
        """How many test targets there are, in words."""
        raise NotImplementedError


def task_of(data: Any) -> Task:
    """The task that data are for.

    Raises:
        FedlabError: they are no data of ours.
    """
    if not isinstance(getattr(data, "task", None), str):
        raise FedlabError(f"data must be a Dataset or a ClickLog, as fl.load and fl.from_frames give; got {type(data)}")
    return lookup("task", data.task)()


def federation_of(recipe: Recipe, data: Any) -> Any:
    """A recipe's federation on these data, before its first round."""
    return task_of(data).federation(recipe, data)


def rival_of(family: str, name: str) -> Any:
    """A simple recommender by its name; "ease:200" sets the one number that it takes.

    Raises:
        FedlabError: no such name, or a number that it does not take.
    """
    plain, _, number = name.partition(":")
    member = lookup(family, plain)
    if not number:
        return member()
    try:
        return member(float(number) if "." in number else int(number))
    except (TypeError, ValueError) as error:
        if isinstance(error, FedlabError):
            raise
        raise FedlabError(f"{family} '{name}': '{number}' is not a number that {plain} takes") from None


def paired_means(users: pd.DataFrame, a: str, b: str, metric: str) -> pd.Series:
    """The paired test of two rows, a user's figure being its mean over seeds and showings."""
    means = users.groupby(["row", "user"])[metric].mean()
    return paired_test((means[a] - means[b]).to_numpy())
