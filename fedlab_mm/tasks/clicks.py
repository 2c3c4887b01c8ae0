"""Click prediction: will a user click what is shown?"""

from dataclasses import dataclass

from fedlab_mm.errors import FedlabError
from fedlab_mm.privacy import UploadNoise
from fedlab_mm.registry import register
from fedlab_mm.settings import Settings, at_least, one_of, setting
from fedlab_mm.tasks.base import Task


@register("task", "clicks")
class Clicks(Task):
    prefix, what = "click ", "methods that predict clicks"
    mechanism = UploadNoise

    @dataclass(frozen=True)
    class Params(Settings):
        """What every run that predicts clicks reads.

        Attributes:
            max_length: the most showings that a sequence has.
            attribute_dim: width of each attribute's embedding.
            blocks, heads: of a transformer.
            dropout: of its tokens and feed-forward layers: the share that is dropped.
            history: what a sequence tells of past showings: "items", their attributes (Eq. 1 of MRFF), or "clicks",
                also whether they were clicked.
        """

        max_length: int = setting(65, at_least(1))
        attribute_dim: int = setting(8, at_least(1))
        blocks: int = setting(2, at_least(1))
        heads: int = setting(1, at_least(1))
        dropout: float = setting(0.0)
        history: str = setting("items", one_of("items", "clicks"))

        def check(self) -> None:
            if not 0 <= self.dropout < 1:
                raise FedlabError(f"dropout={self.dropout}: the share that is dropped lies in [0, 1)")
