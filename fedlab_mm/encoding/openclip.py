"""OpenCLIP, the foundation model of the papers: ViT-B-32 with OpenAI's weights, or any other that it lists."""

import contextlib
import difflib
import hashlib
import importlib.util
import logging
import os
import socket
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fedlab_mm.encoding.base import EncoderUnavailable
from fedlab_mm.errors import FedlabError
from fedlab_mm.network import offline
from fedlab_mm.registry import register
from fedlab_mm.threads import lap, paced

LONGEST_TEXT = 2_000  # characters handed to the tokenizer, which keeps 77 tokens and is slow on endless words
NOT_INSTALLED = 'OpenCLIP is not installed: pip install "fedlab_mm[encode]"'


@register("encoder", "openclip")
class OpenCLIP:
    """Pictures and texts to unit vectors by a model of OpenCLIP; it is loaded when first needed.

    Args:
        model: a name that OpenCLIP lists ("ViT-B-32").
        weights: a tag that OpenCLIP lists for it ("openai"), downloaded once; the path of a `.safetensors` file (for
            OpenAI's own, name the model "ViT-B-32-quickgelu": a file does not say what activation it was trained
            with); or None for random weights, which know nothing but let everything else run.
        device: "cpu" or "cuda"; batch: items encoded at a time; seed: of random weights.

    Raises:
        FedlabError: OpenCLIP lists no such model or weights (the message names the nearest), or there is no such
            device.
        EncoderUnavailable: when first used, if the weights cannot be had.
    """

    texts_alone = True

    def __init__(
        self,
        model: str = "ViT-B-32",
        weights: str | os.PathLike[str] | None = "openai",
        device: str = "cpu",
        batch: int = 64,
        seed: int = 0,
    ):
        if batch < 1:
            raise FedlabError(f"batch={batch}: must be at least 1")
        self.model, self.device, self.batch, self.seed = model, device, batch, seed
        self.weights = None if weights is None else str(weights)
        self._lock = threading.Lock()
        self._parts: tuple[Any, Any, Any] | None = None
        if self._is_file and not self.weights_path.is_file():
            raise FedlabError(f"{self.weights}: no such file of weights")
        if self._is_file and self.weights_path.suffix != ".safetensors":
            raise FedlabError(f"{self.weights}: weights are read from .safetensors only, for other files can run code")

    @classmethod
    def named(cls, rest: str, device: str) -> "OpenCLIP":
        """By MODEL/WEIGHTS, each of which may be left out; "…/random" for random weights."""
        model, _, weights = rest.partition("/")
        return cls(model or "ViT-B-32", None if weights == "random" else weights or "openai", device)

    @property
    def weights_path(self) -> Path:
        return Path(str(self.weights))

    @property
    def _is_file(self) -> bool:
        return self.weights is not None and (len(self.weights_path.parts) > 1 or self.weights_path.suffix != "")

    @property
    def identity(self) -> dict[str, Any]:
        """Model, weights, and the version of OpenCLIP, which fixes how pictures are resized, cropped and scaled."""
        known: dict[str, Any] = {"weights": self.weights}
        if self._is_file:
            known = {"weights": self.weights_path.name, "sha256": _sha256(self.weights_path)}
        if self.weights is None:
            known = {"weights": None, "seed": self.seed, "torch": torch.__version__.split("+")[0]}
        try:
            known["open_clip"] = version("open_clip_torch")
        except PackageNotFoundError:
            raise EncoderUnavailable(NOT_INSTALLED) from None
        return {"encoder": "openclip", "model": self.model, **known}

    @property
    def _loaded(self) -> tuple[Any, Any, Any]:
        """Model, preprocessing and tokenizer; the threads that decode pictures may all ask at once."""
        with self._lock:
            if self._parts is None:
                self._parts = self._load()
            return self._parts

    def _load(self) -> tuple[Any, Any, Any]:
        open_clip = import_open_clip()
        self._check_names(open_clip)
        self._check_device()
        options: dict[str, Any] = {"device": self.device, "weights_only": True}
        if self.weights is not None and not self._is_file:
            # The activation that the weights were trained with: OpenCLIP only warns where the two differ.
            options["force_quick_gelu"] = open_clip.get_pretrained_cfg(self.model, self.weights).get(
                "quick_gelu", False
            )
        kept = offline()
        try:
            with _quietly(), _offline_if_unreachable(kept is not None), torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would seed CUDA's, too, for good
                model, _, preprocess = open_clip.create_model_and_transforms(
                    self.model, pretrained=self.weights, **options
                )
                tokenizer = open_clip.get_tokenizer(self.model)
        except Exception as error:  # a damaged file of weights can fail anywhere
            once = f"{kept}: unset it once" if kept else "Connect to the network once"
            advice = f"{once}, or give a .safetensors file as weights, or choose encoder='offline'"
            if self._is_file:
                advice = "Is the file whole, and are the weights this model's?"
            raise EncoderUnavailable(
                f"OpenCLIP's {self.model} with weights '{self.weights}' cannot be loaded ({_first_line(error)}). "
                f"{advice}"
            ) from None
        return model.eval().requires_grad_(False), preprocess, tokenizer

    def _check_names(self, open_clip: Any) -> None:
        models = open_clip.list_models()
        if self.model not in models:
            near = difflib.get_close_matches(self.model, models, n=3, cutoff=0)
            raise FedlabError(f"OpenCLIP lists no model '{self.model}'; the nearest are: {', '.join(near)}")
        tags = open_clip.list_pretrained_tags_by_model(self.model)
        if self.weights is not None and not self._is_file and self.weights.lower() not in {t.lower() for t in tags}:
            raise FedlabError(
                f"OpenCLIP lists no weights '{self.weights}' of {self.model}; there are: {', '.join(tags) or 'none'}"
            )

    def _check_device(self) -> None:
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise FedlabError(f"device='{self.device}' cannot be used ({_first_line(error)})") from None

    def prepare(self, picture: Image.Image) -> np.ndarray:
        return self._loaded[1](picture).numpy()

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        model = self._loaded[0]
        parts = []
        for start in range(0, len(prepared), self.batch):
            pixels = torch.from_numpy(np.stack(prepared[start : start + self.batch])).to(self.device)
            with paced("images", self.model, self.device):
                parts.append(model.encode_image(pixels, normalize=True).float().cpu().numpy())
                lap(len(pixels))
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        model, _, tokenizer = self._loaded
        parts = []
        for start in range(0, len(texts), self.batch):
            tokens = tokenizer([text[:LONGEST_TEXT] for text in texts[start : start + self.batch]]).to(self.device)
            with paced("texts", self.model, self.device):
                parts.append(model.encode_text(tokens, normalize=True).float().cpu().numpy())
                lap(len(tokens))
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


def import_open_clip() -> Any:
    """open_clip, also where torchvision and torch were built apart.

    torchvision's wheel from PyPI is built against the CUDA build of torch. Beside a CPU build its compiled operators do
    not load, and its import then fails because it registers shapes for operators that nobody declared. OpenCLIP needs
    none of them, so their declarations are enough.

    Raises:
        EncoderUnavailable: it is not installed, or fails in another way.
    """
    if importlib.util.find_spec("open_clip") is None:
        raise EncoderUnavailable(NOT_INSTALLED)
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise EncoderUnavailable(f"torchvision cannot be imported ({error})") from None
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators()
    except ImportError as error:
        raise EncoderUnavailable(f"torchvision cannot be imported ({error})") from None
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:
        raise EncoderUnavailable(f"OpenCLIP cannot be imported ({error})") from None
    return open_clip


_DECLARED: list[torch.library.Library] = []  # a Library takes its declarations along when it goes


def _declare_operators() -> None:
    if not _DECLARED:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)


@contextlib.contextmanager
def _offline_if_unreachable(kept: bool = False) -> Iterator[None]:
    """Without a network the hub is asked once, not six times over a minute, and never where this machine is kept
    offline; what it keeps on disk is found all the same."""
    from huggingface_hub import constants

    host = constants.ENDPOINT.split("//")[-1].split("/")[0].split(":")[0]
    proxied = any(os.environ.get(n) for n in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    before = constants.HF_HUB_OFFLINE
    try:
        if kept:
            constants.HF_HUB_OFFLINE = True
        elif not proxied:
            socket.getaddrinfo(host, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    return textwrap.shorten((str(error).splitlines() or [type(error).__name__])[0], 240, placeholder=" …")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
