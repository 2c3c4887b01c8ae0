"""Only what is new is encoded, and every row gets its own vector."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import fedlab_mm as fl
from fedlab_mm.encoding import (
    EncoderUnavailable,
    FeatureCache,
    OfflineEncoder,
    OpenCLIP,
    cache_folder,
    choose,
    clean_text,
    encode,
    encode_images,
    encode_items,
    encode_texts,
    openclip,
)


class Fake:
    """A picture's vector is its first pixel, a text's is its hash; remembers what it was asked."""

    def __init__(self, name: str = "fake", texts_alone: bool = True, fail_after: int | None = None):
        self.name, self.texts_alone, self.fail_after = name, texts_alone, fail_after
        self.pictures: list[tuple[int, ...]] = []
        self.texts: list[str] = []

    @property
    def identity(self) -> dict[str, Any]:
        return {"encoder": self.name}

    def prepare(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(picture)[0, 0]

    def encode_prepared(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        if self.fail_after is not None and len(self.pictures) + len(prepared) > self.fail_after:
            raise KeyboardInterrupt
        self.pictures += [tuple(p.tolist()) for p in prepared]
        return np.stack(prepared).astype(np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        if self.fail_after is not None and len(self.texts) + len(texts) > self.fail_after:
            raise KeyboardInterrupt
        self.texts += texts
        return np.stack([vector_of(text) for text in texts])


def vector_of(text: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8).astype(np.float32)


def colour(n: int) -> tuple[int, int, int]:
    return n % 256, n // 256, 7


def picture(folder: Path, n: int, name: str | None = None) -> Path:
    path = folder / (name or f"{n}.png")
    Image.new("RGB", (2, 2), colour(n)).save(path, "PNG")
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> list[Path]:
    """More than fit in three groups, which are decoded ahead."""
    folder = tmp_path_factory.mktemp("many")
    return [picture(folder, n) for n in range(3 * encode.GROUP + 20)]


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache({"encoder": "fake"}, tmp_path / "cache")


def test_only_the_new_picture_is_encoded(tmp_path, cache):
    paths = [picture(tmp_path, n) for n in range(5)]
    first = encode_images(paths, Fake(), cache, progress=False)
    assert (first.encoded, first.from_cache) == (5, 0)
    more, fake = [picture(tmp_path, 9), *paths], Fake()
    second = encode_images(more, fake, cache, progress=False)
    assert fake.pictures == [colour(9)] and (second.encoded, second.from_cache) == (1, 5)
    assert np.array_equal(second.vectors[1:], first.vectors) and tuple(second.vectors[0]) == colour(9)
    fake = Fake()
    third = encode_images(more, fake, cache, progress=False)
    assert not fake.pictures and np.array_equal(third.vectors, second.vectors)


def test_only_the_new_text_is_encoded(cache):
    first = encode_texts(["a", "b"], Fake(), cache)
    fake = Fake()
    second = encode_texts(["b", "new", "a"], fake, cache)
    assert fake.texts == ["new"] and (second.encoded, second.from_cache) == (1, 2)
    assert np.array_equal(second.vectors[[2, 0]], first.vectors)


def test_where_texts_depend_on_each_other_all_are_encoded_anew(cache):
    first = encode_texts(["a", "b", "a", ""], Fake(texts_alone=False), cache)
    assert (first.encoded, first.from_cache) == (2, 0)
    fake = Fake(texts_alone=False)
    assert encode_texts(["a", "b", "a", ""], fake, cache).from_cache == 2 and not fake.texts
    third = encode_texts(["a", "b", "a", "new"], fake, cache)
    assert fake.texts == ["a", "b", "a", "new"] and (third.encoded, third.from_cache) == (3, 0)


def test_the_offline_encoder_s_texts_are_the_same_with_and_without_a_cache(tmp_path):
    encoder, texts = OfflineEncoder(), ["red fox", "", "bread oven", "red fox"]
    cache = FeatureCache(encoder.identity, tmp_path)
    expected = encoder.encode_texts(texts)
    for kept in (None, cache, cache):
        assert np.array_equal(encode_texts(texts, encoder, kept).vectors, expected)


def test_another_encoder_does_not_get_these_vectors(tmp_path):
    paths = [picture(tmp_path, 1)]
    encode_items(paths, ["a"], Fake("one"), cache=tmp_path, progress=False)
    fake = Fake("two")
    encode_items(paths, ["a"], fake, cache=tmp_path, progress=False)
    assert fake.pictures == [colour(1)] and fake.texts == ["a"]


def test_a_changed_file_is_encoded_again(tmp_path, cache):
    path = picture(tmp_path, 1)
    encode_images([path], Fake(), cache, progress=False)
    picture(tmp_path, 2, path.name)
    assert tuple(encode_images([path], Fake(), cache, progress=False).vectors[0]) == colour(2)


def test_the_same_bytes_are_encoded_once(tmp_path):
    paths = [picture(tmp_path, 1), picture(tmp_path, 1, "again.jpg"), picture(tmp_path, 2), picture(tmp_path, 1)]
    fake = Fake()
    done = encode_images(paths, fake, progress=False)
    assert fake.pictures == [colour(1), colour(2)] and done.encoded == 2
    assert [tuple(v) for v in done.vectors] == [colour(n) for n in (1, 1, 2, 1)]
    fake = Fake()
    texts = encode_texts(["a", "b", " a ", "a\0"], fake)
    assert fake.texts == ["a", "b"] and np.array_equal(texts.vectors[0], texts.vectors[3])


def test_what_cannot_be_read_is_listed_and_missing(tmp_path, cache):
    (tmp_path / "text.jpg").write_text("hello", encoding="utf-8", newline="\n")
    cut = picture(tmp_path, 3, "cut.png")
    cut.write_bytes(cut.read_bytes()[:-30])
    Image.new("RGB", (50, 60)).save(tmp_path / "large.png")
    (tmp_path / "sub").mkdir()
    paths = [
        picture(tmp_path, 1),
        None,
        tmp_path / "gone.jpg",
        tmp_path / "text.jpg",
        cut,
        tmp_path / "large.png",
        tmp_path / "sub",
        tmp_path / "text.jpg",
        picture(tmp_path, 2),
        tmp_path / ("x" * 300),
        tmp_path / "a\0b",
        tmp_path / "\ud800",
        tmp_path / "1.png" / "below",
    ]
    for _ in range(2):  # nor are they kept as if they had been read
        done = encode_images(paths, Fake(), cache, progress=False, max_pixels=1000)
        assert done.missing_I.tolist() == [False] + [True] * 7 + [False] + [True] * 4
        assert [tuple(v) for v in done.vectors[[0, 8]]] == [colour(1), colour(2)]
        assert not done.vectors[done.missing_I].any()
        assert list(done.problems) == [2, 3, 4, 5, 6, 7, 9, 10, 11, 12]
        assert done.problems[2] == f"{tmp_path / 'gone.jpg'}: there is no such file"
        assert done.problems[12].endswith("there is no such file")
        assert done.problems[3] == done.problems[7]
        assert done.problems[3].startswith(
            f"{tmp_path / 'text.jpg'}: not a picture in one of JPEG, PNG, WEBP, GIF, BMP"
        )
        assert "cut.png: cannot be decoded" in done.problems[4]
        assert "large.png: refused: 50 × 60 pixels" in done.problems[5]
        if os.name == "posix":  # Windows says neither
            assert "irectory" in done.problems[6]
            assert "name too long" in done.problems[9]
        assert all("\n" not in problem for problem in done.problems.values())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_listed(tmp_path):
    picture(tmp_path, 1).chmod(0)
    assert "Permission denied" in encode_images([tmp_path / "1.png"], Fake(), progress=False).problems[0]


@pytest.mark.parametrize("paths", [[], [None, None], [Path("gone.png")]])
def test_nothing_to_encode(paths, cache):
    done = encode_images(paths, Fake(), cache, progress=False)
    assert done.vectors.shape == (len(paths), 0) and done.missing_I.tolist() == [True] * len(paths)
    assert (done.encoded, done.from_cache) == (0, 0) and not cache.folder.exists()


@pytest.mark.parametrize("workers", [1, 2, 7, None])
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_keep_their_order(many, cache, workers, seed):
    order = np.random.default_rng(seed).permutation(len(many))
    for kept in (None, cache, cache):
        fake = Fake()
        done = encode_images([many[n] for n in order], fake, kept, progress=False, workers=workers)
        assert [tuple(v) for v in done.vectors] == [colour(n) for n in order]
        assert fake.pictures in ([], [colour(n) for n in order])  # the encoder sees them in order, too


def test_some_kept_and_some_new_keep_their_order(many, cache):
    encode_images(many[::3], Fake(), cache, progress=False)
    done = encode_images(many[::-1], Fake(), cache, progress=False)
    assert [tuple(v) for v in done.vectors] == [colour(n) for n in reversed(range(len(many)))]
    texts = [f"title {n}" for n in range(200)]
    encode_texts(texts[::3], Fake(), cache)
    assert np.array_equal(encode_texts(texts[::-1], Fake(), cache).vectors, [vector_of(t) for t in texts[::-1]])


def test_an_interruption_keeps_what_was_done(many, cache):
    with pytest.raises(KeyboardInterrupt):
        encode_images(many, Fake(fail_after=2 * encode.GROUP), cache, progress=False)
    fake = Fake()
    done = encode_images(many, fake, cache, progress=False)
    assert done.from_cache == 2 * encode.GROUP
    assert fake.pictures == [colour(n) for n in range(2 * encode.GROUP, len(many))]
    texts = [f"title {n}" for n in range(3 * encode.GROUP)]
    with pytest.raises(KeyboardInterrupt):
        encode_texts(texts, Fake(fail_after=encode.GROUP), cache)
    assert encode_texts(texts, Fake(), cache).from_cache == encode.GROUP


def test_a_kill_costs_no_more_than_the_last_stretch(many, cache, monkeypatch):
    """What a SIGKILL leaves is what was saved on the way."""
    monkeypatch.setattr(encode, "SAVE_EVERY", 0.0)
    seen = []

    class Looking(Fake):
        def encode_prepared(self, prepared):
            seen.append(len(cache.read("image")))
            return super().encode_prepared(prepared)

    encode_images(many, Looking(), cache, progress=False)
    assert seen == [0, 64, 128, 192]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nan_is_refused_and_not_kept(tmp_path, cache, bad):
    class Broken(Fake):
        def encode_prepared(self, prepared):
            return np.full((len(prepared), 3), bad, dtype=np.float32)

        def encode_texts(self, texts):
            return np.full((len(texts), 3), bad, dtype=np.float32)

    for call in (
        lambda: encode_images([picture(tmp_path, 1)], Broken(), cache, progress=False),
        lambda: encode_texts(["a"], Broken(), cache),
        lambda: encode_texts(["a"], Broken(texts_alone=False), cache),
    ):
        with pytest.raises(fl.FedlabError, match=r"fake.* made a NaN or an infinity: its weights are damaged"):
            call()
    assert cache.read("image") == cache.read("text") == {}


def test_the_bar_can_be_off(many, capfd):
    encode_images(many[:3], Fake(), progress=False)
    encode_texts(["a"], Fake(), progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a", "a"),
        ("  a b\n", "a b"),
        ("a\0b\x07\x9f\x7f", "ab"),
        ("caf\ud800é\udfff", "café"),
        ("a\tb\nc", "a\tb\nc"),
        ("漢字 🙂 אב", "漢字 🙂 אב"),
        ("👩‍👧", "👩‍👧"),  # held together by a character without a width
        ("", ""),
        (" \t\n\r\u00a0\u3000", ""),
        ("\0\x01\ud800", ""),
        ("\u200b\u2060\ufeff\u00ad\u200e", ""),  # no width at all
        ("\ufeff title", "\ufeff title"),
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
        (7, "7"),
    ],
)
def test_clean_text(text, clean):
    assert clean_text(text) == clean


def test_empty_texts_are_missing():
    fake = Fake()
    done = encode_texts(["", "a", " \0 ", "\u200b", "\ud800", "b"], fake)
    assert done.missing_I.tolist() == [True, False, True, True, True, False]
    assert fake.texts == ["a", "b"] and not done.vectors[done.missing_I].any() and done.vectors[1].any()
    assert not done.problems
    nothing = encode_texts(["", " "], Fake())
    assert nothing.vectors.shape == (2, 0) and nothing.missing_I.all()
    assert encode_texts([], Fake()).vectors.shape == (0, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=20), max_size=6))
@example(["\ud800", "\x00", "\u200b", "a\ud800"])
def test_any_text_is_encoded_or_missing(texts):
    for encoder in (Fake(), Fake(texts_alone=False), OfflineEncoder(8)):
        done = encode_texts(texts, encoder)
        assert done.vectors.shape[0] == len(texts) == len(done.missing_I)
        assert not done.vectors[done.missing_I].any() and np.isfinite(done.vectors).all()
        if isinstance(encoder, Fake):
            for text, vector, missing in zip(texts, done.vectors, done.missing_I, strict=True):
                assert missing or np.array_equal(vector, vector_of(clean_text(text)))


def test_a_text_of_a_megabyte():
    texts = ["word " * 200_000, "x" * 1_000_000, "\0" * 1_000_000]
    for encoder in (Fake(), OfflineEncoder(8)):
        done = encode_texts(texts, encoder)
        assert done.missing_I.tolist() == [False, False, True] and done.vectors[:2].any(axis=1).all()


@pytest.fixture
def unavailable(monkeypatch):
    def failing():
        raise EncoderUnavailable("OpenCLIP is not installed: pip install open_clip_torch")

    monkeypatch.setattr(openclip, "import_open_clip", failing)


def test_auto_falls_back_to_the_offline_encoder_and_says_what_is_lost(tmp_path, unavailable):
    paths, texts = [picture(tmp_path, 1), None, picture(tmp_path, 99)], ["red fox", "", "bread oven"]
    with pytest.warns(UserWarning) as told:
        done, encoder = encode_items(paths, texts, "auto", cache=tmp_path / "cache", progress=False)
    message = str(told[0].message)
    assert len(told) == 1 and told[0].filename == __file__
    assert message.startswith("OpenCLIP is not installed: pip install open_clip_torch. Going on with the offline")
    assert "colours, edges and words, not what a picture or a sentence means" in message and "\n" not in message
    assert isinstance(encoder, OfflineEncoder)
    assert np.array_equal(done["image"].vectors, encode_images(paths, encoder, progress=False).vectors)
    assert np.array_equal(done["text"].vectors, encode_texts(texts, encoder).vectors)
    assert [e.missing_I.tolist() for e in done.values()] == [[False, True, False]] * 2
    folders = {path.name.split("-")[0] for path in (tmp_path / "cache" / "features").iterdir()}
    assert folders == {"offline"}  # nothing of it is kept as OpenCLIP's


@pytest.mark.parametrize("modality", ["image", "text"])
def test_auto_falls_back_for_one_modality(tmp_path, unavailable, modality):
    images = [picture(tmp_path, 1)] if modality == "image" else None
    texts = ["red fox"] if modality == "text" else None
    with pytest.warns(UserWarning, match="Going on with the offline encoder"):
        done, encoder = encode_items(images, texts, cache=tmp_path, progress=False)
    assert list(done) == [modality] and isinstance(encoder, OfflineEncoder)


def test_auto_never_mixes_two_encoders(tmp_path, unavailable):
    """OpenCLIP's pictures are kept, but of its texts one is new."""
    path = picture(tmp_path, 1)
    digest = hashlib.sha256(path.read_bytes()).digest()
    FeatureCache(OpenCLIP().identity, tmp_path).add("image", {digest: np.full(512, 3, dtype=np.float32)})
    with pytest.warns(UserWarning, match="Going on with the offline encoder"):
        done, encoder = encode_items([path], ["red fox"], cache=tmp_path, progress=False)
    assert np.array_equal(done["image"].vectors, encoder.encode_images([Image.open(path)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done, encoder = encode_items([path], None, cache=tmp_path, progress=False)  # all of it is kept
    assert (done["image"].vectors == 3).all() and isinstance(encoder, OpenCLIP)


def test_auto_falls_back_where_open_clip_is_not_installed(tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(openclip, "version", missing)
    monkeypatch.setattr(openclip.importlib.util, "find_spec", lambda _: None)
    with pytest.warns(UserWarning, match=r'OpenCLIP is not installed: pip install "fedlab_mm\[encode\]"\. Going on'):
        _, encoder = encode_items(None, ["red fox"], cache=tmp_path)
    assert isinstance(encoder, OfflineEncoder)


def test_an_encoder_that_was_asked_for_is_not_replaced(tmp_path, unavailable):
    with pytest.raises(EncoderUnavailable, match="not installed"):
        encode_items(None, ["red fox"], "openclip", cache=tmp_path)


def test_encode_items_keeps_in_the_user_s_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_MM_CACHE", str(tmp_path))
    done, encoder = encode_items(None, ["red fox"], "offline")
    assert isinstance(encoder, OfflineEncoder) and list(done) == ["text"]
    assert list(cache_folder().rglob("text.safetensors"))
    assert encode_items(None, ["red fox"], "offline")[0]["text"].from_cache == 1
    assert encode_items(None, None, "offline")[0] == {}


@pytest.mark.parametrize("name", ["", "clip", "Offline", "offline:big", "openclipp:ViT-B-32", "open_clip", ":"])
def test_unknown_encoders(tmp_path, name):
    with pytest.raises(
        fl.FedlabError, match=f"unknown encoder '{name}': there are: auto, offline, openclip, openclip:"
    ):
        choose(name)
    with pytest.raises(fl.FedlabError, match="unknown encoder"):
        encode_items(None, ["a"], name, cache=tmp_path)


@pytest.mark.parametrize(
    ("name", "model", "weights"),
    [
        ("openclip", "ViT-B-32", "openai"),
        ("openclip:ViT-B-16", "ViT-B-16", "openai"),
        ("openclip:ViT-B-32/laion2b_s34b_b79k", "ViT-B-32", "laion2b_s34b_b79k"),
        ("openclip:ViT-S-32/random", "ViT-S-32", None),
    ],
)
def test_openclip_by_name(name, model, weights):
    chosen = choose(name, "cuda")
    assert isinstance(chosen, OpenCLIP)
    assert (chosen.model, chosen.weights, chosen.device) == (model, weights, "cuda")


def test_openclip_with_a_file_by_name(tmp_path):
    path = tmp_path / "w.safetensors"
    path.touch()
    assert choose(f"openclip:ViT-B-32/{path}").weights == str(path)


def test_an_encoder_itself_is_passed_on():
    fake = Fake()
    assert choose(fake) is fake and isinstance(choose("offline"), OfflineEncoder)
