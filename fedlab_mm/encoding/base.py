"""What an encoder is, and how one is chosen by name."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fedlab_mm.errors import FedlabError


class EncoderUnavailable(FedlabError):
    """The encoder cannot be had on this machine: its weights cannot be downloaded, or a library is broken."""


class Encoder(Protocol):
    """h of Eq. 1: pictures and texts to vectors of one width. One that is to be had by name registers as "encoder" and
    has a class method `named(rest, device)`, where `rest` is what stands behind its name and a colon.

    Attributes:
        identity: all that decides a vector beside the item itself, as JSON; features are cached under it.
        texts_alone: whether a text's vector depends on that text only, and so can be kept when others come.
    """

    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def texts_alone(self) -> bool: ...
    def prepare(self, picture: Image.Image) -> np.ndarray:
        """What the encoder needs of an RGB picture; runs in a worker thread, without the model."""
        ...

    def encode_prepared(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [len(prepared), width]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), width]."""
        ...
