"""OpenCLIP with random weights, which knows nothing but goes all the way that the trained one goes."""

import json
import socket
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import fedlab_mm as fl
from fedlab_mm.encoding import EncoderUnavailable, OpenCLIP, encode_images, encode_items, encode_texts, openclip

pytestmark = pytest.mark.slow

SMALL = "ViT-S-32-alt"
TEXTS = ["quiet orbit", "a photo of a red fox", "漢字 🙂", "x", "", "word " * 400]


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(224, 224), (50, 80), (300, 20), (1, 1), (640, 480)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def seen_by(encoder: OpenCLIP) -> np.ndarray:
    return encoder.encode_prepared([encoder.prepare(picture) for picture in pictures()])


@pytest.fixture(scope="module")
def open_clip():
    return openclip.import_open_clip()


@pytest.fixture(scope="module")
def small() -> OpenCLIP:
    return OpenCLIP(SMALL, weights=None)


@pytest.fixture(scope="module")
def vectors(small) -> tuple[np.ndarray, np.ndarray]:
    return seen_by(small), small.encode_texts(TEXTS)


@pytest.fixture(scope="module")
def reference(open_clip):
    """The same model, made and asked by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _, preprocess = open_clip.create_model_and_transforms(SMALL)
    return model.eval(), preprocess, open_clip.get_tokenizer(SMALL)


def test_the_papers_model_makes_unit_vectors_of_width_512():
    encoder = OpenCLIP(weights=None)
    assert encoder.model == "ViT-B-32" and OpenCLIP().weights == "openai"
    images = encoder.encode_prepared([encoder.prepare(picture) for picture in pictures()[1:3]])
    texts = encoder.encode_texts(TEXTS[:2])
    for found in (images, texts):
        assert found.shape == (2, 512) and found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        assert not np.allclose(found[0], found[1], atol=1e-3)


def test_vectors_have_length_one_and_one_width(vectors):
    images, texts = vectors
    assert images.shape == (5, 256) and texts.shape == (6, 256)
    for found in (images, texts):
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_vectors_are_those_of_open_clip_itself(vectors, reference):
    model, preprocess, tokenizer = reference
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(p) for p in pictures()]))
        texts = model.encode_text(tokenizer(TEXTS))
    for ours, theirs in zip(vectors, (images, texts), strict=True):
        theirs = torch.nn.functional.normalize(theirs, dim=1)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_the_same_again_and_another_for_another_seed(vectors):
    again, other = OpenCLIP(SMALL, None), OpenCLIP(SMALL, None, seed=1)
    torch.manual_seed(77)  # of no account
    assert np.array_equal(again.encode_texts(TEXTS), vectors[1])
    assert not np.allclose(other.encode_texts(TEXTS), vectors[1], atol=1e-2)
    assert again.identity == OpenCLIP(SMALL, None).identity != other.identity


def test_loading_leaves_the_random_numbers_of_others_alone(monkeypatch):
    def no_cuda(*_):
        raise AssertionError("CUDA's random numbers were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", no_cuda)
    before = torch.get_rng_state()
    model = OpenCLIP(SMALL, None)._loaded[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_alone_and_in_a_batch_a_vector_is_the_same(small, vectors, monkeypatch, batch):
    monkeypatch.setattr(small, "batch", batch)
    np.testing.assert_allclose(seen_by(small), vectors[0], atol=1e-5)
    np.testing.assert_allclose(small.encode_texts(TEXTS), vectors[1], atol=1e-5)


def test_nothing_to_encode(small):
    assert len(small.encode_prepared([])) == len(small.encode_texts([])) == 0


def test_files_and_texts_of_every_kind(small, tmp_path):
    for n, mode in enumerate(["RGB", "RGBA", "L", "P", "CMYK", "1"]):
        Image.new(mode, (30, 20)).save(tmp_path / f"{n}.{'jpg' if mode == 'CMYK' else 'png'}")
    Image.new("RGB", (1, 100)).save(tmp_path / "narrow.png")
    paths = sorted(tmp_path.iterdir())
    images = encode_images([*paths, None, tmp_path / "gone.png"], small, progress=False)
    assert images.missing_I.tolist() == [False] * 7 + [True] * 2 and list(images.problems) == [8]
    odd = [
        "\ud800",
        "a\ud800b",
        "\0",
        "x" * 1_000_000,
        "漢" * 100_000,
        "<b>&amp;",
        "\u202eabc",
        "<|endoftext|>",
        "🙂" * 9,
    ]
    texts = encode_texts(odd, small, progress=False)
    assert texts.missing_I.tolist() == [True, False, True] + [False] * 6
    for done in (images, texts):
        lengths = np.linalg.norm(done.vectors, axis=1)
        np.testing.assert_allclose(lengths, ~done.missing_I, rtol=1e-5)


def test_threads_that_ask_at_once_load_one_model(monkeypatch):
    loaded = []

    def load(_):
        loaded.append(time.sleep(0.05))
        return None, None, None

    monkeypatch.setattr(OpenCLIP, "_load", load)
    encoder = OpenCLIP(SMALL, None)
    threads = [threading.Thread(target=lambda: encoder._loaded) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1


@pytest.fixture(scope="module")
def weights_file(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    safetensors.torch.save_file({k: v.clone() for k, v in reference[0].state_dict().items()}, path)
    return path


def test_weights_from_a_file_are_the_same_weights(weights_file, vectors):
    encoder = OpenCLIP(SMALL, weights_file, seed=5)
    np.testing.assert_allclose(seen_by(encoder), vectors[0], atol=1e-6)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), vectors[1], atol=1e-6)
    known = encoder.identity
    assert known["weights"] == "random.safetensors" and len(known["sha256"]) == 64
    assert str(weights_file.parent) not in json.dumps(known)  # so that it can move


def test_a_file_s_identity_is_its_content(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"one")
    before = OpenCLIP(SMALL, tmp_path / "w.safetensors").identity
    (tmp_path / "w.safetensors").write_bytes(b"two")
    assert OpenCLIP(SMALL, tmp_path / "w.safetensors").identity != before


def test_identities_can_be_written_and_differ():
    encoders = [
        OpenCLIP(),
        OpenCLIP(weights="laion2b_s34b_b79k"),
        OpenCLIP("ViT-B-16"),
        OpenCLIP(weights=None),
        OpenCLIP(weights=None, seed=1),
    ]
    assert len({json.dumps(e.identity) for e in encoders}) == 5
    assert OpenCLIP(device="cuda", batch=3).identity == OpenCLIP().identity  # these change no vector
    assert {"encoder", "model", "weights", "open_clip"} <= set(OpenCLIP().identity)


@pytest.mark.parametrize(
    "content",
    [b"", b"not weights", b"\x02" + b"\0" * 7 + b"{}", safetensors.torch.save({"a": torch.ones(2)})],
    ids=["empty", "text", "no tensors", "other tensors"],
)
def test_a_file_of_other_weights_is_one_clear_line(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        EncoderUnavailable, match=r"with weights '.*w\.safetensors' cannot be loaded \(.+\)\. Is the file"
    ) as e:
        OpenCLIP(SMALL, path).encode_texts(["a"])
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.pth", "w.npz", "w.pkl"])
def test_weights_that_could_run_code_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n")
    with pytest.raises(
        fl.FedlabError, match=rf"{name}: weights are read from \.safetensors only, for other files can run"
    ):
        OpenCLIP(weights=tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "/nowhere/w.safetensors"}, "/nowhere/w.safetensors: no such file of weights"),
        ({"weights": "w.safetensors"}, "w.safetensors: no such file of weights"),
        ({"batch": 0}, "batch=0: must be at least 1"),
        ({"batch": -3}, "batch=-3: must be at least 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(fl.FedlabError, match=message):
        OpenCLIP(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-B32"}, "OpenCLIP lists no model 'ViT-B32'; the nearest are: .*ViT-B-32"),
        ({"model": "zzzz"}, r"OpenCLIP lists no model 'zzzz'; the nearest are: \w+"),
        ({"model": ""}, r"OpenCLIP lists no model ''; the nearest are: \w+"),
        ({"weights": "opena"}, "OpenCLIP lists no weights 'opena' of ViT-B-32; there are: openai, laion400m_e31"),
        ({"weights": ""}, "OpenCLIP lists no weights '' of ViT-B-32; there are: openai"),
        ({"model": SMALL, "weights": "openai"}, f"lists no weights 'openai' of {SMALL}; there are: \\w+"),
        ({"model": "hf-hub:someone/model", "weights": None}, "OpenCLIP lists no model 'hf-hub:someone/model'"),
        ({"device": "gpu", "weights": None}, r"device='gpu' cannot be used \(.+\)"),
    ],
)
def test_unknown_names_are_said_when_the_model_is_needed(options, message):
    encoder = OpenCLIP(**options)
    for call in (lambda: encoder.encode_texts(["a"]), lambda: encoder.prepare(pictures()[0])):
        with pytest.raises(fl.FedlabError, match=message) as caught:
            call()
        assert not isinstance(caught.value, EncoderUnavailable)  # 'auto' does not hide a slip behind another encoder


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none_is_one_clear_line():
    with pytest.raises(fl.FedlabError, match=r"device='cuda' cannot be used \(.+\)"):
        OpenCLIP(SMALL, None, device="cuda").encode_texts(["a"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_makes_the_same_vectors(vectors):
    encoder = OpenCLIP(SMALL, None, device="cuda")
    np.testing.assert_allclose(seen_by(encoder), vectors[0], atol=5e-3)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), vectors[1], atol=5e-3)


def test_every_listed_tag_is_a_tag_and_no_file(open_clip):
    listed = open_clip.list_pretrained()
    assert ("ViT-B-32", "openai") in listed
    for model, tag in listed:
        OpenCLIP(model, tag)._check_names(open_clip)


@pytest.mark.parametrize(
    ("model", "weights", "quick"),
    [
        ("ViT-B-32", "openai", True),
        ("ViT-B-32", "OpenAI", True),
        ("ViT-L-14", "openai", True),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
        ("ViT-B-32", None, None),
    ],
)
def test_the_activation_is_the_one_of_the_weights(open_clip, monkeypatch, model, weights, quick):
    asked = {}

    def create(name, pretrained, **options):
        asked.update(options, name=name, pretrained=pretrained)
        raise RuntimeError

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    with pytest.raises(EncoderUnavailable, match=r"cannot be loaded \(RuntimeError\)"):
        OpenCLIP(model, weights).encode_texts(["a"])
    assert (asked["name"], asked["pretrained"]) == (model, weights)
    assert asked.get("force_quick_gelu") is quick and asked["weights_only"] is True


def test_the_activation_is_really_put_in(open_clip):
    from open_clip.transformer import QuickGELU

    model = open_clip.create_model("ViT-S-32-alt", force_quick_gelu=True)
    assert any(isinstance(m, QuickGELU) for m in model.visual.modules())


@pytest.fixture
def cut_off(monkeypatch, tmp_path, open_clip):
    """No network, and nothing from an earlier one."""
    from huggingface_hub import constants

    asked = []

    def unreachable(*arguments, **_):
        asked.append(arguments)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_without_a_network_the_weights_are_soon_said_to_be_unavailable(cut_off):
    from huggingface_hub import constants

    before, began = constants.HF_HUB_OFFLINE, time.monotonic()
    with pytest.raises(EncoderUnavailable) as caught:
        OpenCLIP().encode_texts(["a"])
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert message.startswith("OpenCLIP's ViT-B-32 with weights 'openai' cannot be loaded (") and "\n" not in message
    assert message.endswith("or give a .safetensors file as weights, or choose encoder='offline'")
    assert len(message) < 480 and len(cut_off) == 1
    assert before == constants.HF_HUB_OFFLINE


@pytest.fixture
def watched(monkeypatch, tmp_path, open_clip):
    """A machine with a network that is to stay offline: what is asked of it is noted, and refused."""
    from huggingface_hub import constants

    asked = []

    def refused(*arguments, **_):
        asked.append(arguments[-1])
        raise ConnectionRefusedError("nothing may be asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refused)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("FEDLAB_MM_OFFLINE", "1")
    return asked


@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9"])
def test_a_machine_that_is_kept_offline_asks_the_hub_nothing(watched, monkeypatch, proxy):
    from huggingface_hub import constants

    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(EncoderUnavailable, match=r"FEDLAB_MM_OFFLINE=1 keeps this machine offline: unset it once, or"):
        OpenCLIP().encode_texts(["a"])
    assert not watched and constants.HF_HUB_OFFLINE is False
    monkeypatch.setenv("FEDLAB_MM_OFFLINE", "maybe")
    with pytest.raises(fl.FedlabError, match=r"^FEDLAB_MM_OFFLINE=maybe: must be one of 1, true, yes, on, or of 0"):
        encode_items(None, ["a"], progress=False)  # under "auto" nothing stands in for a clear answer
    monkeypatch.setenv("FEDLAB_MM_OFFLINE", "0")
    with pytest.raises(EncoderUnavailable, match="Connect to the network once"):
        OpenCLIP().encode_texts(["a"])
    assert watched


def test_weights_that_the_hub_s_cache_holds_load_offline(watched, monkeypatch, tmp_path, open_clip, small, vectors):
    tags = {"test": {"hf_hub": "somebody/small/", "quick_gelu": False}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, SMALL, tags)
    kept = tmp_path / "hub" / "models--somebody--small"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("a" * 40, encoding="utf-8", newline="")
    (kept / "snapshots" / ("a" * 40)).mkdir(parents=True)
    path = kept / "snapshots" / ("a" * 40) / "open_clip_model.safetensors"
    safetensors.torch.save_file(small._loaded[0].state_dict(), path)
    encoder = OpenCLIP(SMALL, "test")
    assert np.array_equal(encoder.encode_texts(TEXTS), vectors[1]) and not watched


def test_all_weights_come_by_the_hub(open_clip):
    """Which can be kept offline: OpenCLIP's other way, by an address of their own, cannot."""
    for model, tag in open_clip.list_pretrained():
        assert open_clip.get_pretrained_cfg(model, tag).get("hf_hub"), (model, tag)


def test_without_a_network_auto_goes_on_offline(cut_off, tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="'openai' cannot be loaded .* Going on with the offline encoder"):
        done, encoder = encode_items([tmp_path / "a.png"], ["red fox"], cache=tmp_path / "cache", progress=False)
    assert encoder.identity["encoder"] == "offline"
    assert {m: e.vectors.shape for m, e in done.items()} == {"image": (1, 512), "text": (1, 512)}


def test_random_weights_need_no_network(cut_off):
    assert OpenCLIP(SMALL, None).encode_texts(["a"]).shape == (1, 256)


def run_apart(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_open_clip_is_imported_also_where_torchvision_and_torch_were_built_apart():
    told = run_apart(
        """
        for name in ("torchvision", "open_clip"):
            try:
                __import__(name)
            except RuntimeError as error:
                print(f"{name} alone: {error}")
        import fedlab_mm.encoding.openclip as o
        first = o.import_open_clip()
        assert o.import_open_clip() is first
        import open_clip, torchvision, torchvision.transforms.v2
        assert open_clip is first and "ViT-B-32" in first.list_models()
        print("imported")
        """
    )
    assert told.splitlines()[-1] == "imported"
    assert set(told.splitlines()[:-1]) <= {
        f"{name} alone: operator torchvision::nms does not exist" for name in ("torchvision", "open_clip")
    }


def without(monkeypatch, name: str, error: Exception) -> None:
    """`import name` fails with this error."""

    class Finder:
        @staticmethod
        def find_spec(found, *_):
            if found.partition(".")[0] == name:
                raise error

    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("torchvision", ImportError("no libpng"), r"torchvision cannot be imported \(no libpng\)"),
        ("torchvision", RuntimeError("no CUDA"), r"torchvision cannot be imported \(no CUDA\)"),
    ],
)
def test_a_broken_torchvision_is_one_clear_line(open_clip, monkeypatch, name, error, message):
    without(monkeypatch, name, error)
    with pytest.raises(EncoderUnavailable, match=message):
        openclip.import_open_clip()


def test_open_clip_that_is_not_installed(open_clip, monkeypatch):
    monkeypatch.setattr(openclip.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EncoderUnavailable, match=r'OpenCLIP is not installed: pip install "fedlab_mm\[encode\]"'):
        OpenCLIP(SMALL, None).encode_texts(["a"])
