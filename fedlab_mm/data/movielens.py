"""MovieLens: latest-small, 1M and 100k, with posters and abstracts where a folder gives them."""

from pathlib import Path
from typing import ClassVar

import pandas as pd

from fedlab_mm.data.fetch import Download
from fedlab_mm.data.preparation import Preparation, Raw
from fedlab_mm.data.source import Source
from fedlab_mm.data.tables import as_numbers, encoding_of, named, read_json, read_table, whole_numbers
from fedlab_mm.encoding import clean_text, folder_called, pictures_of
from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import register

# The columns of u.item in ml-100k that name a genre, in their order.
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
).split()


class MovieLens(Source):
    """Ratings taken as interactions, whatever their stars (`min_rating=4` keeps those from four on); 5-core by default,
    as in FedVLR (610 users, 3,650 items and 90,274 interactions of latest-small).

    Beside the publisher's files there may be `posters/MOVIEID.jpg` and `abstracts.json` (movie number -> text). An
    item's text is its title and its abstract, or its title and its genres where it has none.
    """

    ratings: ClassVar[str]
    movies: ClassVar[str]
    where_to_get = "grouplens.org/datasets/movielens"
    licence = "research use, with acknowledgement; not to be passed on without the same terms, no commercial use"
    citation = (
        "F. Maxwell Harper and Joseph A. Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015, "
        "doi.org/10.1145/2827872"
    )
    defaults = Preparation(core=5)

    @classmethod
    def read(cls, folder: Path) -> Raw:
        path = folder / cls.ratings
        log = cls.read_ratings(path)
        log = pd.DataFrame(
            {
                "user": named(log["user"], "user", path),
                "item": named(log["item"], "item", path),
                "timestamp": whole_numbers(log["timestamp"], "timestamp", path),
                **({"rating": as_numbers(log["rating"], "rating", path)} if "rating" in log else {}),
            }
        )
        path = folder / cls.movies
        items = cls.read_movies(path)
        items = items.assign(item=named(items["item"], "item", path))
        posters = pictures_of(items["item"].tolist(), folder_called(folder, "posters"))
        abstracts = cls.read_abstracts(folder / "abstracts.json")
        more = [abstracts.get(i) or g for i, g in zip(items["item"], items["genres"], strict=True)]
        items = items.assign(
            text=[". ".join(filter(None, both)) for both in zip(items["title"], more, strict=True)],
            image=items["item"].map(posters),
        )
        return Raw(log, items, str(folder / cls.ratings), str(path))

    @classmethod
    def read_ratings(cls, path: Path) -> pd.DataFrame:
        raise NotImplementedError

    @classmethod
    def read_movies(cls, path: Path) -> pd.DataFrame:
        raise NotImplementedError

    @staticmethod
    def read_abstracts(path: Path) -> dict[str, str]:
        if not path.is_file():
            return {}
        abstracts = read_json(path)
        if not isinstance(abstracts, dict) or not all(isinstance(a, str) for a in abstracts.values()):
            raise FedlabError(f"{path}: is not a JSON object of movie numbers and texts")
        return {movie: clean_text(text) for movie, text in abstracts.items()}


def _about(files: str) -> str:
    return f"{files}\n\n    {MovieLens.__doc__}"


def _download(name: str, sha256: str, *files: str) -> tuple[Download, ...]:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    return (Download((url,), sha256, {f"{name}/{file}": file for file in files}),)


@register("dataset", "ml-latest-small")
class LatestSmall(MovieLens):
    __doc__ = _about("`ratings.csv` (userId, movieId, rating, timestamp) and `movies.csv` (movieId, title, genres).")

    name = "ml-latest-small"
    ratings, movies = files = ("ratings.csv", "movies.csv")
    downloads = _download(
        name, "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436", *files, "README.txt"
    )

    @classmethod
    def read_ratings(cls, path: Path) -> pd.DataFrame:
        columns = {"user": "userId", "item": "movieId", "timestamp": "timestamp"}
        return read_table(path, columns, optional={"rating": "rating"})

    @classmethod
    def read_movies(cls, path: Path) -> pd.DataFrame:
        movies = read_table(path, {"item": "movieId", "title": "title", "genres": "genres"})
        genres = movies["genres"].str.replace("(no genres listed)", "", regex=False)
        return movies.assign(genres=genres.str.replace("|", ", ", regex=False))


@register("dataset", "ml-1m")
class OneMillion(MovieLens):
    __doc__ = _about("`ratings.dat` and `movies.dat`, their cells parted by `::`, in Latin-1 or UTF-8.")

    name = "ml-1m"
    ratings, movies = files = ("ratings.dat", "movies.dat")
    downloads = _download(name, "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", *files, "README")

    @classmethod
    def read_ratings(cls, path: Path) -> pd.DataFrame:
        return read_table(path, names=("user", "item", "rating", "timestamp"), sep="::", encoding=encoding_of(path))

    @classmethod
    def read_movies(cls, path: Path) -> pd.DataFrame:
        movies = read_table(path, names=("item", "title", "genres"), sep="::", encoding=encoding_of(path))
        return movies.assign(genres=movies["genres"].str.replace("|", ", ", regex=False))


@register("dataset", "ml-100k")
class HundredThousand(MovieLens):
    __doc__ = _about(
        "`u.data` (tab-separated) and `u.item` (parted by `|`, in Latin-1 or UTF-8, a column for each genre)."
    )

    name = "ml-100k"
    ratings, movies = files = ("u.data", "u.item")
    downloads = _download(name, "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229", *files, "README")

    @classmethod
    def read_ratings(cls, path: Path) -> pd.DataFrame:
        return read_table(path, names=("user", "item", "rating", "timestamp"), sep="\t", encoding=encoding_of(path))

    @classmethod
    def read_movies(cls, path: Path) -> pd.DataFrame:
        columns = ("item", "title", "release", "video", "url", *_GENRES)
        movies = read_table(path, names=columns, sep="|", encoding=encoding_of(path))
        marked = movies[list(_GENRES)].to_numpy() == "1"
        genres = [", ".join(g for g, m in zip(_GENRES[1:], row[1:], strict=True) if m) for row in marked]
        return movies[["item", "title"]].assign(genres=genres)
