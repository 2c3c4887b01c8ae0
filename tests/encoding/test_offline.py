"""The encoder that needs no weights."""

import numpy as np
import pytest
from PIL import Image

import fedlab_mm as fl
from fedlab_mm.encoding import OfflineEncoder


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (30, 90), (200, 7), (1, 1))]


@pytest.fixture(scope="module")
def encoder():
    return OfflineEncoder()


def test_preparing_and_encoding_is_encoding(encoder, pictures):
    whole = encoder.encode_images(pictures)
    apart = encoder.encode_prepared([encoder.prepare(Image.fromarray(p)) for p in pictures])
    assert np.array_equal(whole, apart)
    alone = np.concatenate([encoder.encode_prepared([encoder.prepare(p)]) for p in pictures])
    assert np.array_equal(whole, alone)


def test_vectors_have_length_one(encoder, pictures):
    for vectors in (encoder.encode_images(pictures), encoder.encode_texts(["quiet orbit", "bread", "漢字 orbit"])):
        assert vectors.dtype == np.float32 and vectors.shape[1] == 512
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("width", [1, 16, 700])
def test_width(width, pictures):
    encoder = OfflineEncoder(width)
    assert encoder.encode_images(pictures).shape == (len(pictures), width)
    assert encoder.encode_texts(["a title"]).shape == (1, width)
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, width)


def test_a_text_without_words_is_zero(encoder):
    vectors = encoder.encode_texts(["", "!?", " ", "\ud800", "\0", "word"])
    assert not vectors[:5].any() and vectors[5].any()
    assert not encoder.encode_texts(["", "!"]).any()


def test_the_same_again_and_another_for_another_seed(pictures):
    first, again, other = OfflineEncoder(), OfflineEncoder(), OfflineEncoder(seed=1)
    for encode in ("encode_images", "encode_texts"):
        what = pictures if encode == "encode_images" else ["quiet orbit", "bread oven"]
        assert np.array_equal(getattr(first, encode)(what), getattr(again, encode)(what))
        assert not np.allclose(getattr(first, encode)(what), getattr(other, encode)(what))
    assert first.identity == again.identity != other.identity


def test_like_things_are_near(encoder):
    red, red_too, blue = (Image.new("RGB", (50, 50), c) for c in ((250, 0, 0), (240, 5, 5), (0, 0, 250)))
    a, b, c = encoder.encode_images([red, red_too, blue])
    assert a @ b > 0.99 and a @ b > a @ c
    x, y, z = encoder.encode_texts(["the red fox", "red fox stories", "bread oven"])
    assert x @ y > x @ z


def test_a_text_is_weighed_by_the_others(encoder):
    assert not encoder.texts_alone
    alone = encoder.encode_texts(["red fox"])[0]
    assert not np.allclose(alone, encoder.encode_texts(["red fox", "red hen", "red cow"])[0])


@pytest.mark.parametrize("picture", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_no_picture_is_said(encoder, picture):
    with pytest.raises(fl.FedlabError, match=r"a picture is uint8 \[height, width, 3\] or a PIL image, not"):
        encoder.encode_images([picture])
