"""A finished training: what it reports, what can be asked of it, and how it is saved and read back."""

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from fedlab_mm.data.load import load
from fedlab_mm.errors import FedlabError
from fedlab_mm.federation import Federation
from fedlab_mm.federation.state import read_tensors
from fedlab_mm.files import whole
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import SPLITS, ClickLog, Dataset, Model
from fedlab_mm.tasks import federation_of, task_of
from fedlab_mm.threads import fixed
from fedlab_mm.version import __version__, versions


@dataclass(frozen=True)
class Run:
    """A finished training: the model at its best validation round, and the last state to go on from.

    Attributes:
        recipe, data: what was trained, on what.
        history: tidy DataFrame: round, split, metric, value.
        test: test metrics at `best_round`, chosen by validation NDCG@k.
        model: the engine, in the state of the best round.
        last_state: all that the next round needs, as named tensors.
        code: the hash of the code that trained it.
    """

    recipe: Recipe
    data: Any  # a Dataset, or a ClickLog
    history: pd.DataFrame
    test: Mapping[str, float]
    best_round: int
    model: Model
    last_state: Mapping[str, torch.Tensor]
    code: str = ""

    def __repr__(self) -> str:
        told = self._told()
        wide = max(len(what) for what in told)
        lines = (f"  {what:<{wide}}  {value}" for what, value in told.items())
        return "\n".join((f"<Run {self.recipe.label} on {self.data.name}, seed {self.recipe.seed}", *lines)) + ">"

    def _repr_html_(self) -> str:
        name = f"{self.recipe.label} on {self.data.name}, seed {self.recipe.seed}"
        return pd.Series(self._told(), name=name).to_frame().to_html()

    def _told(self) -> dict[str, str]:
        """What a reader asks first: what was changed, how far it went, what came out, how big it is."""
        changed = {n: v for n, v in self.recipe.changed.items() if n not in ("dataset", "backbone", "method", "seed")}
        n_bytes = sum(value.numel() * value.element_size() for value in self.last_state.values())
        return {
            "changed": ", ".join(f"{n}={v!r}" for n, v in changed.items()) or "nothing: the defaults",
            "rounds": f"{self.rounds_done}, the best {self.best_round} (valid {self.goal} {self.best_valid:.4f})",
            "test": ", ".join(f"{metric} {value:.4f}" for metric, value in self.test.items()),
            "size": f"{self.data.n_users:,} users, {self.data.n_items:,} items, {n_bytes / 1e6:.1f} MB of state",
        }

    @property
    def goal(self) -> str:
        """The metric by which the best round was chosen, on validation."""
        return task_of(self.data).goal(self.recipe)

    @property
    def best_valid(self) -> float:
        """Validation NDCG@k, of click models AUC, at the best round; NaN where none was validated."""
        if not self.best_round:
            return float("nan")
        h = self.history
        at_best = (h["round"] == self.best_round) & (h["split"] == "valid") & (h["metric"] == self.goal)
        return float(h.loc[at_best, "value"].iloc[0])

    @property
    def rounds_done(self) -> int:
        return int(self.last_state["round"])

    @cached_property
    def scores_UI(self) -> torch.Tensor:
        """Every user's logit of every item, at the best round.

        Raises:
            FedlabError: the run predicts clicks.
        """
        return self.model.scores()

    def recommend(
        self, user: int | str, k: int = 10, new_items: Mapping[str, torch.Tensor] | None = None
    ) -> pd.DataFrame:
        """The k items with the highest scores that `user` does not hold in training: item, title, score, and id, what
        the files call it, where that is not its number.

        Args:
            user: its number, or, as text, what the files call it (`data.users`).
            new_items: modality -> [J, d_m], features of items that nobody has interacted with, encoded as the
                catalogue's. If given, the k best of these J items, numbered from 0: item, score, and the rank that each
                would take among the user's unseen items of the catalogue (1 is the top).

        Raises:
            FedlabError: no such user, k out of range, a method that does not fuse, features that do not fit; the run
                predicts clicks.
        """
        # Nobody keeps a new item, so it stands beside the catalogue as the global model scores it.
        scores_UI = self.scores_UI if new_items is None else self.model.global_scores()
        if isinstance(user, str):
            known = np.flatnonzero(self.data.users["id"].astype(str) == user)
            if not len(known):
                raise FedlabError(f"user='{user}': {self.data.name} has no such user (data.users lists them)")
            user = int(known[0])
        if not 0 <= user < self.data.n_users:
            raise FedlabError(f"user={user}: {self.data.name} has users 0 to {self.data.n_users - 1}")
        scores_I = scores_UI[user].clone()
        scores_I[torch.from_numpy(self.data.train[user])] = -torch.inf
        unseen = self.data.n_items - int(self.data.train.lengths[user])
        ranked_I = scores_I
        if new_items is not None:
            ranked_I = self.model.scores_of_new(new_items)[user]
            unseen = len(ranked_I)
        if not 1 <= k <= unseen:
            raise FedlabError(f"k={k}: user {user} can be recommended 1 to {unseen} items")
        order = torch.argsort(ranked_I, descending=True, stable=True)[:k].numpy()
        score = ranked_I.numpy()[order]
        if new_items is not None:
            ranks = [1 + int((scores_I > s).sum()) for s in score]
            return pd.DataFrame({"item": order, "score": score, "rank": ranks})
        items = self.data.items
        named = "id" in items and (items["id"].astype(str) != items["item"].astype(str)).any()
        top = items.iloc[order][["item", *(["id"] if named else []), "title"]].reset_index(drop=True)
        return top.assign(score=score)

    def groups(self) -> pd.Series | pd.DataFrame:
        """Which group each user is in, at the best round: user → group, and under MRFF user × block, as its gates chose
        when it last trained (they choose anew where it predicts). −1 for one that never took part.

        Raises:
            FedlabError: the method groups nobody.
        """
        group = self.model.groups_of_users()
        if group is None:
            raise FedlabError(f"method '{self.recipe.method}' groups nobody; gfmfr and mrff do")
        if group.ndim == 1:
            return pd.Series(group, name="group").rename_axis("user")
        return pd.DataFrame(group).rename_axis(index="user", columns="block")

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """What a click model predicts of each user's showings of a split, at the best round: user, click, logit.

        Raises:
            FedlabError: the run ranks items.
        """
        if split not in SPLITS:
            raise FedlabError(f"unknown split '{split}': there are: {', '.join(SPLITS)}")
        return self.model.predict(split)

    def router_weights(self) -> pd.DataFrame:
        """How much each user's router relies on each view: user × operator, rows sum to one."""
        weights_UE = self.model.router_weights()
        if weights_UE is None:
            raise FedlabError(f"method '{self.recipe.method}' has no router; fedmr and fedvlr have one")
        return pd.DataFrame(weights_UE.numpy(), columns=self.model.views).rename_axis(index="user", columns="operator")

    def signals(self, user: int | None = None) -> dict[str, np.ndarray]:
        """Where the items' signals lie in the space that they are fused in: signal -> float [I, D], "id" and every
        modality, z_m = W_m x_m + b_m.

        Args:
            user: as this user's personal table moves them (under FedRAP): with FedMR the ID embedding that is mapped is
                D + P^(u); where the server fuses, P^(u) is a signal of its own, "personal".

        Raises:
            FedlabError: a method without such a space, no such user, a backbone without personal tables.
        """
        if user is not None:
            if not 0 <= user < self.data.n_users:
                raise FedlabError(f"user={user}: {self.data.name} has users 0 to {self.data.n_users - 1}")
            if not any(name.startswith("personal_table") for name in self.last_state):
                raise FedlabError(f"user={user}: '{self.recipe.backbone}' has no personal item table; fedrap has")
        return {name: z_ID.numpy() for name, z_ID in self.model.signals(user).items()}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write recipe, history, test metrics and both states to `folder`; `load_run` reads them back.

        The folder appears whole or not at all: it is written beside its place and renamed. A run that was saved there
        before is replaced; a folder that holds anything else is left alone, with an error.
        """
        folder = free_folder(folder)
        try:
            with whole(folder) as partial:
                partial.mkdir()
                self._write(partial)
        except (OSError, SafetensorError) as error:  # a full disk, in either's words
            reason = getattr(error, "strerror", None) or error
            raise FedlabError(f"{folder} cannot be written ({reason}): choose another folder") from None
        return folder

    def _write(self, folder: Path) -> None:
        (folder / "recipe.json").write_text(self.recipe.to_json(), encoding="utf-8", newline="\n")
        self.history.to_csv(folder / "history.csv", index=False, lineterminator="\n")
        about = {
            "test": dict(self.test),
            "best_round": self.best_round,
            "data": {"name": self.data.name, "sha256": self.data.fingerprint},
            "code": self.code,
            "versions": versions(),
            "threads": fixed() or "chosen by the clock",
        }
        (folder / "run.json").write_text(json.dumps(about, indent=2), encoding="utf-8", newline="\n")
        save_file({k: v.contiguous() for k, v in self.model.state().items()}, folder / "best.safetensors")
        save_file({k: v.contiguous() for k, v in self.last_state.items()}, folder / "last.safetensors")


def free_folder(folder: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder that a run may be saved in; its parents are made.

    Raises:
        FedlabError: it is a file, or holds something that is not a run, or cannot be made.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise FedlabError(f"{folder} is a file: choose a folder to save the run in")
    if folder.exists() and any(folder.iterdir()) and not (folder / "recipe.json").exists():
        raise FedlabError(f"{folder} is not empty and holds no saved run: choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=folder.parent).cleanup()
    except OSError as error:
        raise FedlabError(f"{folder} cannot be written ({error.strerror}): choose another folder") from None
    return folder


def load_run(
    folder: str | os.PathLike[str],
    data: Dataset | ClickLog | None = None,
    root: str | os.PathLike[str] | None = None,
    device: str = "cpu",
) -> Run:
    """Read what `Run.save` wrote; `train(recipe, data, resume=run)` goes on from it, bit for bit. (The shorter run's
    last round is validated also where `evaluate_every` would pass it over, and may then be the best.)

    Args:
        data: the dataset, loaded by the recipe's name (from `root`) if left out.
        device: where to put the model, wherever it was trained.

    Raises:
        FedlabError: a file is missing or damaged, or the data are not those of the run.
    """
    folder = Path(folder)
    for file in ("recipe.json", "run.json", "history.csv", "best.safetensors", "last.safetensors"):
        if not (folder / file).is_file():
            raise FedlabError(f"{folder} holds no saved run: {file} is missing")
    about: dict[str, Any] = {}
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        known_as, best_round, test = about["data"]["sha256"], about["best_round"], about["test"]
        recipe = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8")).but(device=device)
        history = pd.read_csv(folder / "history.csv")
        best_state = read_tensors(folder / "best.safetensors")
        last_state = read_tensors(folder / "last.safetensors")
        _check_history(history, best_round, int(last_state["round"]), folder / "history.csv")
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        if (wrote := _writer(about)) != __version__:
            raise FedlabError(
                f"{folder} was written by fedlab_mm {wrote}, and this is {__version__}: {error}"
            ) from None
        if isinstance(error, FedlabError):
            raise
        what = f"run.json lacks {error}" if isinstance(error, KeyError) else error
        raise FedlabError(f"{folder} holds a damaged run: {what}") from None
    if data is None:
        try:
            data = load(recipe.dataset, root)
        except FedlabError as error:
            raise FedlabError(
                f"{folder}: its data cannot be loaded: {error}. Or load them, and pass them as data"
            ) from None
    if data.fingerprint != known_as:
        raise FedlabError(
            f"{folder} was trained on other data than this {data.name}: "
            f"sha256 {known_as[:12]}… there, {data.fingerprint[:12]}… here"
        )
    code = str(about.get("code", ""))
    if code != recipe.code:
        warnings.warn(
            f"{folder} was trained by other code (fedlab_mm {_writer(about)}): its figures are of then, and what is "
            "computed from its state now may differ",
            stacklevel=2,
        )
    engine: Federation = federation_of(recipe, data)
    engine.load_state(best_state)
    return Run(recipe, data, history, test, best_round, engine, last_state, code)


def _writer(about: Mapping[str, Any]) -> str:
    """The version of the package that wrote a run, as its run.json tells."""
    told = about.get("versions") if isinstance(about, dict) else None
    return str(told.get("fedlab_mm", __version__)) if isinstance(told, dict) else __version__


def _check_history(history: pd.DataFrame, best_round: int, done: int, path: Path) -> None:
    """Does it tell of every round that was done, and of the validation of the best?"""
    if list(history) != ["round", "split", "metric", "value"]:
        raise FedlabError(f"{path}: its columns are not round, split, metric, value")
    told = set(history.loc[history["split"] == "train", "round"])
    judged = set(history.loc[history["split"] == "valid", "round"])
    if told != set(range(1, done + 1)) or (best_round and best_round not in judged):
        raise FedlabError(
            f"{path} is damaged: it does not tell of the {done} rounds that were done, the best {best_round}"
        )
