"""A dataset: loans of a library."""

import pandas as pd

from fedlab_mm.data import Raw, Source
from fedlab_mm.registry import register


@register("dataset", "shelf")
class Shelf(Source):
    """Who borrowed what, when."""

    name, files, where_to_get = "shelf", ("loans.csv", "books.csv"), "ask your librarian"

    @classmethod
    def read(cls, folder):
        loans = pd.read_csv(folder / "loans.csv", dtype=str).astype({"timestamp": int})
        books = pd.read_csv(folder / "books.csv", dtype=str)
        return Raw(loans, books, str(folder / "loans.csv"), str(folder / "books.csv"))
