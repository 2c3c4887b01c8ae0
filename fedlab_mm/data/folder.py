"""Any folder of your own, read and written.

    interactions.csv   user, item, timestamp (seconds); split (train, valid, test) if you made one; rating, for
                       `min_rating=`
    items.csv          item; if there are any: title, text (what the encoder reads, in place of the title), image (a
                       file in images/)
    images/            ITEM.jpg (or .png .webp .avif .tif …), where items.csv names no file; folders within it count too
    NAME.npy           ready features of a modality NAME, a row for each row of items.csv, any width; or
                       NAME.safetensors

Columns go by other names too (`user_id`, `movieId`: `columns.ALIASES`); cells are parted by commas, semicolons, tabs or
|; times may be dates, or count milli-, micro- or nanoseconds. The two tables may be `.tsv` or `.parquet`, or RecBole's
`NAME.inter` and `NAME.item`. What was understood is in `about`.

A ready "image" or "text" takes the place of encoding. A row of features that is NaN throughout is a missing one.
Without items.csv, the items are those that somebody interacted with. Files that look like pictures or features and are
not read are told.
"""

import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from fedlab_mm.data.build import check_modality
from fedlab_mm.data.columns import ALIASES, interactions_of, items_of, plain, read_parquet
from fedlab_mm.data.preparation import Preparation, Raw
from fedlab_mm.data.prepare import prepare, warn_of_ratings
from fedlab_mm.data.tables import first_row, flaw, read_feature, read_json, read_table
from fedlab_mm.encoding import files_in, folder_called, inside, nfc, pictures_of, suffixes
from fedlab_mm.errors import FedlabError
from fedlab_mm.files import free_file, whole
from fedlab_mm.records import Dataset
from fedlab_mm.registry import register

FEATURES = (".npy", ".safetensors")
# What features come in elsewhere, and tables that are none of ours.
LOOK_ALIKE = {".npz", ".pt", ".pth", ".pkl", ".pickle", ".h5", ".hdf5", ".mat", ".parquet", ".feather", ".csv", ".tsv"}
OURS = ("interactions", "items")
TABLES = (".csv", ".tsv", ".parquet")


@register("dataset", "folder")
class Folder:
    __doc__ = __doc__

    @classmethod
    def load(cls, root: str | os.PathLike[str] | None = None, seed: int = 0, **options: Any) -> Dataset:
        """Read the folder `root`; `seed` has no effect."""
        if root is None:
            raise FedlabError("dataset 'folder': name the folder as root, or load its path itself")
        folder = Path(os.path.expanduser(root))
        about = cls._about(folder)
        how = Preparation().but(**options)
        raw = cls.read(folder, about)
        if how.min_rating is None:
            warn_of_ratings(folder.resolve().name, raw.interactions)
        data = prepare(folder.resolve().name, raw, how, about.get("about"))
        return _remembering(data, about)

    @classmethod
    def read(cls, folder: Path, about: dict[str, Any]) -> Raw:
        path = table_in(folder, "interactions", ".inter")
        if path is None:
            raise FedlabError(
                f"{folder} holds no interactions.csv: a folder needs one, with the columns user, item and timestamp"
            )
        log, understood = interactions_of(_read(path, ("user", "item", "timestamp")), str(path), prepared=bool(about))
        catalogue = table_in(folder, "items", ".item") or path
        if catalogue != path:
            items, more = items_of(_read(catalogue, ("item",)), str(catalogue))
            understood += more
            if "title" not in items and "text" not in items:
                told = f"{folder.name}: {catalogue.name} has no title or text column, so there is no text to encode"
                warnings.warn(told, stacklevel=4)
        else:
            items = pd.DataFrame({"item": log["item"].unique()})
        if "title" not in items:
            items = items.assign(title=items.get("text", ""))
        features = cls._features(folder, len(items))
        if features and catalogue == path:
            raise FedlabError(
                f"{folder}: {', '.join(features)} need items.csv, whose rows say which item each row of features is"
            )
        encode = () if about else ("image", "text")  # what we wrote is encoded already
        images = folder_called(folder, "images")
        items = cls._with_images(images, catalogue, items)
        cls._tell_unread(folder, images)
        return Raw(
            log,
            items,
            str(path),
            str(catalogue),
            features,
            encode,
            numbered=bool(about),
            about={"read as": ", ".join(understood)} if understood else {},
        )

    @staticmethod
    def _features(folder: Path, n_items: int) -> dict[str, np.ndarray]:
        files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in FEATURES and path.is_file() and not path.name.startswith("."):
                modality = nfc(path.stem)
                if modality in files:
                    raise FedlabError(
                        f"{folder}: modality '{modality}' has two files, {files[modality].name} and {path.name}"
                    )
                try:
                    files[check_modality(modality)] = path
                except FedlabError as error:
                    raise FedlabError(f"{path}: {error}") from None
        features = {}
        for modality, path in files.items():
            features[modality] = read_feature(path, n_items)
            lost = np.isnan(features[modality]).all(axis=1)
            if lost.all():
                raise FedlabError(f"{path}: every row is missing")
            if problem := flaw(features[modality], lost):
                hint = " (a missing row is NaN throughout)" if problem.endswith("NaN") else ""
                raise FedlabError(f"{path}, {problem}{hint}")
        return features

    @staticmethod
    def _with_images(images: Path, catalogue: Path, items: pd.DataFrame) -> pd.DataFrame:
        named: dict[str, Path] = {}
        alike = {}
        if "image" in items:
            alike = {nfc(p.relative_to(images).as_posix()).casefold(): p for p in reversed(files_in(images))}
        for row, item, name in zip(items.index, items["item"], items.get("image", items["item"]), strict=True):
            if "image" not in items or not name.strip():
                continue
            path = inside(images, name.strip())
            if path is None:
                raise FedlabError(f"{catalogue}, row {row}: image '{name[:60]}' leads out of {images}")
            told = nfc(path.relative_to(images).as_posix()).casefold()
            named[item] = path if path.exists() else alike.get(told, path)
        found = pictures_of([i for i in items["item"] if i not in named], images, taken=named.values())
        paths = [named.get(item) or found.get(item) for item in items["item"]]
        return items.assign(image=pd.Series(paths, index=items.index, dtype=object))

    @staticmethod
    def _tell_unread(folder: Path, images: Path) -> None:
        """Warn of files, here and one folder below, that somebody may think are read."""
        known = {*FEATURES, *LOOK_ALIKE, *suffixes()}
        there = [p for p in _seen(folder) if p.suffix.lower() not in FEATURES and p.stem.lower() not in OURS]
        there += [file for below in _seen(folder) if below.is_dir() and below != images for file in _seen(below)]
        unread = [p for p in there if p.is_file() and known & {ending.lower() for ending in p.suffixes}]
        if unread:
            first, many = unread[0].relative_to(folder).as_posix(), len(unread) > 1
            told = f"{len(unread):,} files that look" if many else "a file that looks"
            first = f"are not read (first: {first})" if many else f"is not read ({first})"
            warnings.warn(
                f"{folder}: {told} like features or pictures {first}. Features are read from NAME.npy (numpy.save) or "
                "NAME.safetensors beside interactions.csv, pictures from images/",
                stacklevel=5,
            )

    @staticmethod
    def _about(folder: Path) -> dict[str, Any]:
        if not (folder / "dataset.json").is_file():
            return {}
        about = read_json(folder / "dataset.json")
        if not isinstance(about, dict) or not isinstance(about.get("about", {}), dict):
            raise FedlabError(f"{folder / 'dataset.json'}: is not what `save_dataset` writes")
        return about


def _seen(folder: Path) -> list[Path]:
    """What is in a folder and not hidden; nothing where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError:
        return []


def table_in(folder: Path, name: str, ending: str) -> Path | None:
    """The file of a folder's table, under its own name or as RecBole has it; None where there is none.

    Raises:
        FedlabError: there are several.
    """
    there = [path for kind in TABLES if (path := folder / f"{name}{kind}").is_file()]
    if not there and folder.is_dir():
        there = [path for path in sorted(folder.glob(f"*{ending}")) if path.is_file()]
    if len(there) > 1:
        raise FedlabError(f"{folder}: {there[0].name} and {there[1].name} are both there: keep one of them")
    return there[0] if there else None


def _read(path: Path, wanted: tuple[str, ...]) -> pd.DataFrame:
    """A table as text, parted by what makes the wanted columns out of its header."""
    if path.suffix == ".parquet":
        return read_parquet(path)
    if path.suffix in (".inter", ".item"):  # RecBole's
        return read_table(path, sep="\t")
    for sep in (";", "\t", "|"):
        try:
            header = {plain(c) for c in first_row(path, sep)}
        except FedlabError:
            continue  # not parted so
        if all(header & {ours, *ALIASES[ours]} for ours in wanted) and len(header) > 1:
            return read_table(path, sep=sep, quoted=True)
    return read_table(path)


def _remembering(data: Dataset, about: dict[str, Any]) -> Dataset:
    """The dataset with what was left out and filled in before it was saved, added to what was since."""
    dropped, missing = about.get("dropped", {}), about.get("missing", {})
    if not isinstance(dropped, dict) or not isinstance(missing, dict):
        return data
    counts = {str(w): n for w, n in dropped.items() if isinstance(n, int)}
    counts |= {what: n + counts.get(what, 0) for what, n in data.dropped.items()}
    tied = about.get("tied")
    tied = {s: n for s, n in tied.items() if isinstance(n, int)} if isinstance(tied, dict) else {}
    gone = {m: told for m, told in missing.items() if m in data.features and isinstance(told, list) and len(told) == 2}
    return dataclasses.replace(
        data,
        dropped=counts,
        tied=data.tied or tied,
        missing={m: n for m, (n, _) in gone.items() if isinstance(n, int)} | dict(data.missing),
        filled={m: str(how) for m, (_, how) in gone.items()} | dict(data.filled),
    )


def save_dataset(data: Dataset, folder: str | os.PathLike[str]) -> Path:
    """Write a prepared dataset as a folder that `load` reads back to the same `fingerprint`: its split, its items after
    all filtering, and its encoded features. Pictures are not copied.

    Raises:
        FedlabError: the folder is there and holds something else, or cannot be written.
    """
    folder = free_place(folder)
    try:
        with whole(folder) as partial:
            partial.mkdir()
            _write(data, partial)
    except OSError as error:
        raise FedlabError(f"{folder} cannot be written ({error.strerror}): choose another place") from None
    return folder


def free_place(folder: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder that a dataset may be written to; its parents are made.

    Raises:
        FedlabError: the folder is there and holds something else, or cannot be written.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "dataset.json").is_file())):
        raise FedlabError(f"{folder} is there and holds no prepared dataset: choose another place")
    try:
        free_file(folder.parent / f".{folder.name}")
    except FedlabError:
        raise FedlabError(f"{folder} cannot be written: choose another place") from None
    return folder


def _write(data: Dataset, folder: Path) -> None:
    ids = data.items["id"] if "id" in data.items else data.items["item"]
    log = data.interactions
    log = log.assign(user=data.users["id"].to_numpy()[log["user"]], item=ids.to_numpy()[log["item"]])
    items = pd.DataFrame({"item": ids, "title": data.items["title"]})
    for name, table in (("interactions", log[["user", "item", "timestamp", "split"]]), ("items", items)):
        # Lines end as in RFC 4180, for then a name with a lone carriage return is quoted.
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\r\n")
    for modality, feature in data.features.items():
        save_file({modality: np.ascontiguousarray(feature.numpy())}, folder / f"{modality}.safetensors")
    about = {
        "name": data.name,
        "sha256": data.fingerprint,
        "dropped": dict(data.dropped),
        "tied": dict(data.tied),
        "missing": {m: [n, data.filled.get(m, "zero")] for m, n in data.missing.items()},
        "about": dict(data.about),
    }
    told = json.dumps(about, indent=2, ensure_ascii=False)
    (folder / "dataset.json").write_text(told, encoding="utf-8", newline="\n")
