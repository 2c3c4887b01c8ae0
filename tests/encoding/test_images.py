"""A picture or one error that says why not, whatever the bytes; and no name that leaves its folder."""

import io
import os
import struct
import threading
import unicodedata
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

import fedlab_mm as fl
from fedlab_mm.encoding import (
    Covers,
    UnreadableImage,
    folder_called,
    images,
    inside,
    open_image,
    pictures_in,
    pictures_of,
)

INK = (10, 20, 30)
WHITE = (255, 255, 255)
ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
ENDINGS |= {
    "TIFF": ".tif",
    "PPM": ".ppm",
    "TGA": ".tga",
    "PCX": ".pcx",
    "SGI": ".sgi",
    "JPEG2000": ".jp2",
    "QOI": ".qoi",
}
ENDINGS |= {"AVIF": ".avif"} if features.check("avif") else {}


def written(picture: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def noise(width: int = 24, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def paletted(index: int) -> Image.Image:
    picture = Image.new("P", (4, 3), index)
    picture.putpalette([*INK, 200, 0, 0, 0, 200, 0])
    return picture


def grey16(value: int) -> Image.Image:
    return Image.fromarray(np.full((3, 4), value, dtype=np.uint16))


def two_frames(form: str) -> bytes:
    return written(Image.new("RGB", (4, 3), INK), form, save_all=True, append_images=[Image.new("RGB", (4, 3), "red")])


GRADIENT = Image.fromarray(np.add.outer(np.arange(16) * 9, np.arange(24) * 5).astype(np.uint8))
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6
SEEDS = {
    "jpeg": written(GRADIENT.convert("RGB"), "JPEG"),
    "turned jpeg": written(noise(), "JPEG", exif=EXIF),
    "progressive": written(noise(), "JPEG", progressive=True),
    "cmyk": written(noise().convert("CMYK"), "JPEG"),
    "two jpegs": written(noise(), "MPO", save_all=True, append_images=[noise()]),
    "png": written(noise(), "PNG", exif=EXIF),
    "palette": written(noise().quantize(16), "PNG", transparency=3),
    "grey": written(grey16(9), "PNG", transparency=9),
    "gif": two_frames("GIF"),
    "webp": written(noise(), "WEBP"),
    "webp frames": two_frames("WEBP"),
    "bmp": written(noise(), "BMP"),
    **{form.lower(): written(noise(), form) for form in list(ENDINGS)[5:]},
    "tiff packed": written(noise(), "TIFF", compression="tiff_lzw"),
}


INKED, HALF = Image.new("RGB", (4, 3), INK), Image.new("RGBA", (4, 3), (0, 0, 0, 128))
OPAQUE, CLEAR = Image.new("RGBA", (4, 3), (*INK, 255)), Image.new("RGBA", (4, 3), (*INK, 0))
GREY, GREY_CLEAR, GREY_OPAQUE = Image.new("L", (4, 3), 77), *(Image.new("LA", (4, 3), (77, a)) for a in (0, 255))
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (4, 3), "red")]}


@pytest.mark.parametrize(
    ("form", "picture", "options", "pixel"),
    [
        ("PNG", INKED, {}, INK),
        ("BMP", INKED, {}, INK),
        ("WEBP", INKED, {"lossless": True}, INK),
        ("GIF", INKED, {}, INK),
        ("JPEG", INKED, {}, INK),
        ("JPEG", INKED, {"progressive": True}, INK),
        ("PNG", INKED, {"transparency": INK}, WHITE),
        ("PNG", INKED, {"transparency": (1, 2, 3)}, INK),
        ("PNG", OPAQUE, {}, INK),
        ("PNG", CLEAR, {}, WHITE),
        ("PNG", HALF, {}, (127, 127, 127)),
        ("WEBP", CLEAR, {"lossless": True}, WHITE),
        ("PNG", GREY, {}, (77, 77, 77)),
        ("JPEG", GREY, {}, (77, 77, 77)),
        ("PNG", GREY, {"transparency": 77}, WHITE),
        ("PNG", GREY_CLEAR, {}, WHITE),
        ("PNG", GREY_OPAQUE, {}, (77, 77, 77)),
        ("PNG", Image.new("1", (4, 3), 1), {}, WHITE),
        ("BMP", Image.new("1", (4, 3), 0), {}, (0, 0, 0)),
        ("PNG", paletted(0), {}, INK),
        ("PNG", paletted(0), {"transparency": 0}, WHITE),
        ("PNG", paletted(1), {"transparency": 0}, (200, 0, 0)),
        ("PNG", paletted(0), {"transparency": bytes([0, 255, 255])}, WHITE),
        ("GIF", paletted(0), {"transparency": 0}, WHITE),
        ("BMP", paletted(0), {}, INK),
        ("PNG", grey16(65535), {}, WHITE),
        ("PNG", grey16(77 * 257), {}, (77, 77, 77)),
        ("PNG", grey16(0), {}, (0, 0, 0)),
        ("PNG", grey16(9000), {"transparency": 9000}, WHITE),
        ("PNG", grey16(9000), {"transparency": 1}, (35, 35, 35)),
        ("JPEG", INKED.convert("CMYK"), {}, INK),
        ("GIF", INKED, FRAMES, INK),
        ("WEBP", INKED, FRAMES, INK),
        ("PNG", INKED, FRAMES, INK),
        ("MPO", INKED, FRAMES, INK),  # a JPEG as iPhones make them
    ],
)
def test_every_format_and_mode_becomes_rgb(tmp_path, form, picture, options, pixel):
    path = tmp_path / "a.jpg"  # the content decides, not the name
    path.write_bytes(written(picture, form, **options))
    opened = open_image(path)
    assert (opened.mode, opened.size) == ("RGB", (4, 3))
    assert np.abs(np.asarray(opened).astype(int) - pixel).max() <= 6


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
        (9, lambda a: a),  # there is no ninth
    ],
)
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_camera_s_orientation_is_undone(tmp_path, form, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = noise(5, 3)
    picture.save(tmp_path / "a", form, exif=exif, lossless=True)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a")), upright(np.asarray(picture)))


def test_a_broken_exif_costs_no_picture(tmp_path, monkeypatch):
    """Where the orientation can be read, it is heeded: Pillow 11.0 fails as it writes coordinates of 0/0 anew."""
    picture = noise(5, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 1.0, 1.0)})
    picture.save(tmp_path / "turned.png", exif=exif)
    for n, broken in enumerate([b"Exif\0\0no TIFF", EXIF[:17], b"Exif\0\0II*\0\x08\x03"]):
        picture.save(tmp_path / f"{n}.png", exif=broken)
        assert np.array_equal(np.asarray(open_image(tmp_path / f"{n}.png")), np.asarray(picture)), broken

    def tobytes(self, offset=8):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(Image.Exif, "tobytes", tobytes)
    assert np.array_equal(np.asarray(open_image(tmp_path / "turned.png")), np.rot90(np.asarray(picture), -1))


def test_orientation_keeps_transparency(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    paletted(0).save(tmp_path / "a.png", exif=exif, transparency=0)
    picture = open_image(tmp_path / "a.png")
    assert picture.size == (3, 4) and picture.getpixel((0, 0)) == WHITE


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0garbage", b"\0" * 40, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", EXIF[:-9]],
    ids=["empty", "garbage", "zeros", "no entries", "cut"],
)
def test_damaged_exif_does_not_cost_the_picture(tmp_path, exif):
    noise().save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (24, 16)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int) -> bytes:
    """Black, one bit a pixel: a thousandth of what it unfolds into."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * min(height, 500))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    content = bytearray(SEEDS["jpeg"])
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def gif_of(width: int, height: int) -> bytes:
    content = bytearray(SEEDS["gif"])
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def bmp_of(width: int, height: int) -> bytes:
    content = bytearray(SEEDS["bmp"])
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


@pytest.mark.parametrize("size", [(8_001, 8_000), (10_000, 10_000), (60_000, 60_000)])
@pytest.mark.parametrize("of", [png_of, jpeg_of, gif_of, bmp_of])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch, of, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(of(*size))
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self))
    with pytest.raises(UnreadableImage, match=r"bomb\.png: refused: .*more than 64,000,000") as caught:
        open_image(path)
    assert not decoded
    assert caught.value.path == path and caught.value.reason.startswith("refused")


def test_the_limit_is_a_size_that_still_passes_and_is_said(tmp_path):
    noise(4, 3).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", max_pixels=12).size == (4, 3)
    with pytest.raises(UnreadableImage, match=r"a\.png: refused: 4 × 3 pixels are more than 11; make it smaller"):
        open_image(tmp_path / "a.png", max_pixels=11)


@pytest.mark.parametrize(("size", "fine"), [((200, 2), True), ((2, 200), True), ((201, 2), False), ((1, 9_000), False)])
def test_a_thread_of_a_picture_is_refused(tmp_path, size, fine):
    """An encoder scales the short side to some 224 pixels, and with it the long one to millions."""
    Image.new("RGB", size).save(tmp_path / "a.png")
    if fine:
        assert open_image(tmp_path / "a.png").size == size
    else:
        with pytest.raises(UnreadableImage, match=r"refused: .* pixels: one side is more than 100 times the other"):
            open_image(tmp_path / "a.png")


def test_pillow_s_own_warning_may_be_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of(10_000, 10_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage, match=r"refused: more than 64,000,000 pixels; make it smaller"):
            open_image(tmp_path / "a.png")


def test_a_limit_above_pillow_s_own_is_not_claimed(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of(60_000, 60_000))
    with pytest.raises(UnreadableImage, match=r"refused: more than 178,956,970 pixels"):
        open_image(tmp_path / "a.png", max_pixels=10**12)


def test_other_threads_keep_their_warnings(tmp_path, monkeypatch):
    """Pictures are opened by many threads at once, and `warnings.catch_warnings` belongs to all of them."""
    noise().save(tmp_path / "a.png")
    before, during, opened = warnings.filters, [], Image.open

    def looking(*args, **kwargs):
        during.append(warnings.filters is before)
        return opened(*args, **kwargs)

    monkeypatch.setattr(Image, "open", looking)
    open_image(tmp_path / "a.png")
    assert during == [True]


@pytest.mark.parametrize("form", ENDINGS)
def test_a_cut_picture_is_refused_or_whole(tmp_path, form):
    content, path = written(noise(), form), tmp_path / f"a{ENDINGS[form]}"
    path.write_bytes(content)
    whole = np.asarray(open_image(path))
    refused = 0
    for length in range(1, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:length])
        try:
            assert np.array_equal(np.asarray(open_image(path)), whole), length
        except UnreadableImage:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", ["jpeg", "turned jpeg", "progressive", "png"])
def test_half_a_file_is_a_damaged_picture(tmp_path, name):
    path = tmp_path / "half.jpg"
    path.write_bytes(SEEDS[name][: len(SEEDS[name]) * 3 // 4])
    with pytest.raises(UnreadableImage, match=r"half\.jpg: cannot be decoded \(.+\)"):
        open_image(path)


EXOTIC = ["EPS", "ICO", "PDF", "DDS", "ICNS", "MSP"]
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'


@pytest.mark.parametrize("form", EXOTIC)
def test_a_format_that_is_not_listed_is_refused(tmp_path, form):
    picture = noise(32, 32).convert("1" if form == "MSP" else "RGB")
    try:
        content = written(picture, form)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {form}")
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"a\.jpg: not a picture in one of JPEG, PNG, WEBP, GIF, BMP"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "content",
    [b"", b"a picture", SVG, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xd7\xcd\xc6\x9a" * 9, b"PK\3\4"],
    ids=["empty", "text", "svg", "eps", "wmf", "zip"],
)
def test_what_is_no_picture_is_said(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"a\.jpg: not a picture in one of JPEG, PNG, WEBP, GIF, BMP"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("name", "message"),
    [  # the second of two is what Windows says
        ("gone.jpg", r"gone\.jpg: there is no such file"),
        ("sub", "sub: cannot be decoded .*(directory|denied)"),
        ("a.png/b.png", "b.png: (cannot be decoded|there is no such file)"),
        ("n\0l.png", "cannot be decoded"),
        ("x" * 300 + ".png", "cannot be decoded .*name too long|there is no such file"),
        ("\ud800.png", "cannot be decoded|there is no such file"),
    ],
)
def test_a_file_that_cannot_be_opened_is_said(tmp_path, name, message):
    (tmp_path / "sub").mkdir()
    noise().save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match=message):
        open_image(tmp_path / name)


def test_an_unreadable_image_is_one_of_the_library_s_errors():
    assert issubclass(UnreadableImage, fl.FedlabError)


def picture_or_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = open_image(path, max_pixels=200_000)
        except UnreadableImage as error:
            assert error.reason and "\n" not in str(error)
            return
    assert picture.mode == "RGB" and min(picture.size) > 0
    assert np.asarray(picture).shape == (picture.height, picture.width, 3)


MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x1a\0\0\0WEBPVP8 "]


@settings(max_examples=150, deadline=None)
@given(magic=st.sampled_from(MAGIC), content=st.binary(max_size=120))
def test_any_bytes_are_a_picture_or_unreadable(tmp_path_factory, magic, content):
    picture_or_error(tmp_path_factory.getbasetemp() / "any", magic + content)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=5),
    near=st.sampled_from([0.05, 0.3, 1.0]),  # headers are where it hurts
    cut=st.sampled_from([1.0, 1.0, 1.0, 0.7]),
)
def test_damaged_pictures_are_pictures_or_unreadable(tmp_path_factory, name, edits, near, cut):
    content = bytearray(SEEDS[name])
    for where, value in edits:
        content[int(where * near * len(content))] = value
    picture_or_error(tmp_path_factory.getbasetemp() / "damaged", bytes(content[: int(cut * len(content))]))


@settings(max_examples=60, deadline=None)
@given(
    where=st.integers(0, 12),
    size=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    rest=st.tuples(st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 6)),
)
def test_a_png_whose_header_lies_is_a_picture_or_unreadable(tmp_path_factory, where, size, rest):
    """Edits of single bytes fail a PNG's checksums; these do not."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, *rest, 0, 0, 0))
    chunks = [chunk(b"tRNS", bytes(where)), chunk(b"IDAT", zlib.compress(bytes(where * 9))), chunk(b"IEND", b"")]
    picture_or_error(tmp_path_factory.getbasetemp() / "lies.png", b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks))


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("a.jpg", "a.jpg"),
        ("sub/a.jpg", "sub/a.jpg"),
        ("sub\\a.jpg", "sub/a.jpg"),  # as a table written on Windows has it
        ("./a.jpg", "a.jpg"),
        ("a..b.jpg", "a..b.jpg"),
        ("...", "..."),
        ("~root/a.jpg", "~root/a.jpg"),
        ("漢字 é.png", "漢字 é.png"),
    ],
)
def test_names_in_the_folder(tmp_path, name, where):
    assert inside(tmp_path, name) == tmp_path / where


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "./",
        "..",
        "../a.jpg",
        "sub/../../a.jpg",
        "sub/../a.jpg",
        "..\\a.jpg",
        "sub\\..\\..\\a.jpg",
        "/etc/passwd",
        "//etc/passwd",
        "\\etc\\passwd",
        "\\\\server\\share\\a.jpg",
        "\\/etc/passwd",
        "C:\\a.jpg",
        "c:/a.jpg",
        "C:a.jpg",
        "\\\\?\\C:\\a.jpg",
        "a\0.jpg",
        "\0",
    ],
)
def test_names_that_leave_the_folder(tmp_path, name):
    assert inside(tmp_path, name) is None


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=12), st.text(alphabet="./\\:aC~ \0", max_size=12)))
def test_no_name_leaves_the_folder(name):
    folder = Path("/data/images")
    path = inside(folder, name)
    if path is not None:
        assert os.path.normpath(path).startswith("/data/images/")


def located(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def matched(items, folder, **more):
    return {item: path.relative_to(folder).as_posix() for item, path in pictures_of(items, folder, **more).items()}


def test_pictures_are_found_by_the_nearest_name(tmp_path):
    nfd = unicodedata.normalize("NFD", "é")
    located(tmp_path, "a.avif", "sub/deep/b.tif", "C.JPG", f"{nfd}.png", "00004.jpg", "sub/.x/e.png", "__MACOSX/f.png")
    items = ["a", "b", "c", "é", "4", "e", "f", "none"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert matched(items, tmp_path) == {
            "a": "a.avif", "b": "sub/deep/b.tif", "c": "C.JPG", "é": f"{nfd}.png", "4": "00004.jpg",
        }  # fmt: skip
        assert matched(["00a"], tmp_path, others=items) == {} == matched(items, tmp_path / "gone")
        left = matched(items, tmp_path, taken=[tmp_path / "a.avif"])
    assert "a" not in left and len(left) == 4


def test_what_is_not_clear_is_left_and_told(tmp_path):
    located(
        tmp_path, "1.jpg", "1.png", "sub/1.bmp", "001.gif", "0001.gif", "AB.jpg", "z.png", "2.heic", "2.txt", "z.txt"
    )
    with pytest.warns(UserWarning) as told:
        found = matched(["1", "01", "ab", "Ab", "2", "3"], tmp_path)
    assert found == {"1": "1.jpg"}
    assert [str(w.message) for w in told] == [
        f"{tmp_path}: 4 pictures match no item, or several (first: 0001.gif); 2 pictures are their items' second, not "
        "used (first: 1.png); 2 files are named as items and cannot be read (first: 2.heic)"
    ]
    with pytest.warns(UserWarning, match=r"1 picture matches no item, or several \(z\.png\)"):
        assert matched(["1", "ab"], tmp_path) == {"1": "1.jpg", "ab": "AB.jpg"}  # the least deep, then by name


def test_a_folder_is_found_in_any_case(tmp_path):
    assert folder_called(tmp_path, "images") == tmp_path / "images"
    (tmp_path / "Images").mkdir()
    assert folder_called(tmp_path, "images").samefile(tmp_path / "Images")


def test_pictures_of_a_folder(tmp_path):
    for name in ["1.jpg", "1.png", "2.JPEG", "3.WebP", "x.y.gif", "4.bmp", ".5.jpg", "6.txt", "7.jpg.part", "8"]:
        (tmp_path / name).touch()
    there = {name: path.name for name, path in pictures_in(tmp_path).items()}
    assert there == {"1": "1.jpg", "2": "2.JPEG", "3": "3.WebP", "x.y": "x.y.gif", "4": "4.bmp"}
    assert pictures_in(tmp_path / "none") == {} == pictures_in(tmp_path / "1.jpg")


def test_covers_are_grey_where_there_is_no_picture(tmp_path):
    noise(40, 20).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(SEEDS["png"][:200])
    covers = Covers([tmp_path / "a.png", None, tmp_path / "gone.png", tmp_path / "broken.png"], side=10)
    assert len(covers) == 4
    assert covers[0].shape == (5, 10, 3) and covers[0].dtype == np.uint8
    for item in (1, 2, 3):
        assert covers[item].shape == (10, 10, 3) and covers[item].dtype == np.uint8
        assert (covers[item] == covers[item].flat[0]).all() and 100 < covers[item].flat[0] < 255


@pytest.mark.parametrize("size", [(4, 3), (128, 2), (2, 128), (600, 6)])
def test_covers_of_any_shape(tmp_path, size):
    noise(*size).save(tmp_path / "a.png")
    height, width, _ = Covers([tmp_path / "a.png"])[0].shape
    assert 1 <= height <= 128 and 1 <= width <= 128


def test_covers_are_a_sequence(tmp_path):
    noise().save(tmp_path / "a.png")
    covers = Covers([tmp_path / "a.png"])
    assert covers[np.int64(0)] is covers[0]
    for item in (1, -1):
        with pytest.raises(IndexError):
            covers[item]
    assert len(list(covers)) == 1


def test_covers_are_opened_when_looked_at_and_once(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(images, "open_image", lambda path: opened.append(path) or noise())
    covers = Covers([tmp_path / "a.png", tmp_path / "b.png"])
    assert not opened
    threads = [threading.Thread(target=covers.__getitem__, args=(1,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [tmp_path / "b.png"]
