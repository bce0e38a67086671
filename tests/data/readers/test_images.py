from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fragrecon.data.readers.images import ImageDecoder, block_length, decode, size_of
from fragrecon.errors import DataError
from tests import layouts


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def box_mean(image: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.float64]:
    """Means of squares of ``factor`` pixels, of (C, H, W)."""
    channels, height, width = image.shape
    means: npt.NDArray[np.float64] = image.reshape(channels, height // factor, factor, width // factor, factor).mean(
        (2, 4)
    )
    return means


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_of_the_wanted_size_come_unchanged(channels: int, kind: str) -> None:
    for image in layouts.pictures(3, (channels, 20, 33)):
        np.testing.assert_array_equal(decode(layouts.encoded(image, kind), (channels, 20, 33)), image)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_close(kind: str) -> None:
    image = layouts.pictures(1)[0]
    found = decode(layouts.encoded(image, kind), (3, 64, 64)).astype(float)
    assert abs(found - image).mean() < 6


def test_gray_and_rgb_are_made_from_each_other() -> None:
    gray = layouts.pictures(1, (1, 8, 8))[0]
    np.testing.assert_array_equal(decode(layouts.encoded(gray), (3, 8, 8)), gray.repeat(3, 0))
    colour = layouts.pictures(1, (3, 8, 8))[0]
    luma = np.einsum("chw,c->hw", colour.astype(float), (0.299, 0.587, 0.114))  # ITU-R BT.601
    assert abs(decode(layouts.encoded(colour), (1, 8, 8))[0] - luma).max() <= 1


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_whole_factors_average_squares_of_pixels(factor: int) -> None:
    image = layouts.pictures(1, (3, 12 * factor, 16 * factor))[0]
    assert abs(decode(layouts.encoded(image), (3, 12, 16)) - box_mean(image, factor)).max() <= 1


@pytest.mark.parametrize(
    ("size", "cut"),
    [
        ((32, 64), np.s_[:, :, 16:48]),  # wide: the middle of the columns
        ((64, 32), np.s_[:, 16:48, :]),  # tall: the middle of the rows
    ],
)
def test_other_aspects_are_cut_at_the_centre(size: tuple[int, int], cut: Any) -> None:
    image = layouts.pictures(1, (3, *size))[0]
    assert abs(decode(layouts.encoded(image), (3, 16, 16)) - box_mean(image[cut], 2)).max() <= 1


def test_a_wanted_shape_that_is_not_square() -> None:
    image = layouts.pictures(1, (3, 40, 40))[0]
    found = decode(layouts.encoded(image), (3, 10, 20))
    assert abs(found - box_mean(image[:, 10:30], 2)).max() <= 1


def test_fractions_agree_with_pillows_box_filter() -> None:
    image = layouts.pictures(1, (3, 75, 100))[0]
    picture = Image.fromarray(image.transpose(1, 2, 0))
    # The shorter side to 64, then the centre.
    scaled = np.asarray(picture.resize((85, 64), Image.Resampling.BOX)).transpose(2, 0, 1)[:, :, 10:74]
    found = decode(layouts.encoded(image), (3, 64, 64)).astype(float)
    assert abs(found - scaled).mean() < 1


def test_small_images_are_enlarged() -> None:
    image = layouts.pictures(1, (3, 4, 4))[0]
    np.testing.assert_array_equal(decode(layouts.encoded(image), (3, 8, 8)), image.repeat(2, 1).repeat(2, 2))


def test_what_is_transparent_is_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0] = [[200, 10, 30, 255], [200, 10, 30, 0], [0, 0, 0, 127]]
    found = decode(saved(Image.fromarray(pixels, "RGBA"), "PNG"), (3, 1, 3))
    assert found[:, 0].T.tolist() == [[200, 10, 30], [255, 255, 255], [128, 128, 128]]
    gray = Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8), "LA")
    assert decode(saved(gray, "PNG"), (1, 1, 2)).tolist() == [[[9, 255]]]


def test_palettes() -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert decode(saved(palette, "PNG"), (3, 1, 3))[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    found = decode(saved(palette, "PNG", transparency=1), (3, 1, 3))
    assert found[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert decode(saved(bits, "PNG"), (1, 1, 2)).tolist() == [[[0, 255]]]


def test_sixteen_bits_keep_the_high_byte() -> None:
    values = np.array([[0, 255, 256, 0x8001, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decode(saved(Image.fromarray(values), kind), (1, 1, 5)).tolist() == [[[0, 0, 1, 0x80, 255]]]
    with pytest.raises(DataError, match="floating-point pixels"):
        decode(saved(Image.fromarray(values.astype(np.float32)), "TIFF"), (1, 1, 5))


def test_cmyk() -> None:
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[..., 0] = 255  # all cyan
    found = decode(saved(Image.fromarray(ink, "CMYK"), "TIFF"), (3, 8, 8))
    assert found[:, 0, 0].tolist() == [0, 255, 255]


def test_exif_orientation() -> None:
    image = layouts.pictures(1, (3, 16, 16))[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter, clockwise
    turned = saved(Image.fromarray(image.transpose(1, 2, 0)), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(turned, (3, 16, 16)), np.rot90(image, -1, (1, 2)))


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    whole = layouts.encoded(layouts.pictures(1)[0])
    file = tmp_path / "image.png"
    for content, reason in (
        (b"", "no image format is recognised"),
        (b"<html>", "no image format is recognised"),
        (whole[: len(whole) // 2], "truncated"),
        (whole[:60] + bytes(len(whole) - 60), ""),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"^{file} is not a readable image \(.*{reason}.*\); repair or remove it$"):
            decode(file, (3, 64, 64))
        with pytest.raises(DataError, match=r"^row 7 is not a readable image"):
            decode(content, (3, 64, 64), "row 7")
    file.unlink()
    with pytest.raises(DataError, match=r"image\.png is not a readable image \(No such file or directory\)"):
        decode(file, (3, 64, 64))


LOSSY: dict[str, tuple[bytes, bool]] = {
    "JPEG of the size": (saved(Image.new("RGB", (32, 32), "red"), "JPEG"), True),
    "JPEG, larger": (saved(Image.new("RGB", (64, 64), "red"), "JPEG"), False),
    "JPEG, smaller": (saved(Image.new("RGB", (16, 16), "red"), "JPEG"), False),
    "JPEG, cropped but not scaled": (saved(Image.new("RGB", (48, 32), "red"), "JPEG"), True),
    "JPEG, grey": (saved(Image.new("L", (32, 32)), "JPEG"), True),
    "WebP": (saved(Image.new("RGB", (32, 32), "red"), "WEBP"), True),
    "WebP, lossless": (saved(Image.new("RGB", (32, 32), "red"), "WEBP", lossless=True), False),
    "WebP with transparency": (saved(Image.new("RGBA", (32, 32), (255, 0, 0, 99)), "WEBP"), True),
    "WebP with transparency, lossless": (
        saved(Image.new("RGBA", (32, 32), (255, 0, 0, 99)), "WEBP", lossless=True),
        False,
    ),
    "WebP with metadata": (saved(Image.new("RGB", (32, 32)), "WEBP", icc_profile=bytes(999)), True),
    "PNG": (saved(Image.new("RGB", (32, 32), "red"), "PNG"), False),
}


def test_lossy_files_of_the_size_are_counted(tmp_path: Path) -> None:
    for name, (blob, lossy) in LOSSY.items():
        path = tmp_path / "image"
        path.write_bytes(blob)
        for image in (blob, path):
            (block,) = ImageDecoder((3, 32, 32)).blocks([([(name, image)], np.zeros(1, np.int64))])
            assert block.lossy == lossy, name
    every = [(name, blob) for name, (blob, _) in LOSSY.items()]
    (block,) = ImageDecoder((3, 32, 32)).blocks([(every, np.zeros(len(every), np.int64))])
    assert block.lossy == sum(lossy for _, lossy in LOSSY.values())


def test_blocks_are_a_few_thousand_images_or_64_mib() -> None:
    assert [block_length((3, side, side)) for side in (8, 64, 224, 10_000)] == [4096, 4096, 445, 1]


def png(bits: int, colour: int, row: bytes, transparent: Sequence[int], width: int = 3) -> bytes:
    """A PNG of one row, by its specification; Pillow writes no transparent value of 16 bits or below 8."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))
    clear = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    return b"\x89PNG\r\n\x1a\n" + head + clear + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


@pytest.mark.fault("grey PNG with a transparent value")
@pytest.mark.parametrize(
    ("bits", "row", "transparent", "expected"),
    [
        (1, b"\x40", 0, [255, 255, 255]),
        (2, b"\x6c", 2, [85, 255, 255]),  # 1 2 3
        (4, b"\x3a\xf0", 3, [255, 170, 255]),  # 3 10 15
        (8, b"\x03\x0a\xc8", 3, [255, 10, 200]),
        (16, b"\x03\x00\x03\x01\xc8\x00", 0x300, [255, 3, 200]),
    ],
)
def test_a_transparent_grey_value_is_white(bits: int, row: bytes, transparent: int, expected: list[int]) -> None:
    assert decode(png(bits, 0, row, [transparent]), (1, 1, 3)).tolist() == [[expected]]


@pytest.mark.fault("colour PNG of 16 bits with a transparent value")
def test_a_transparent_colour_is_white() -> None:
    colours = np.array([[0x1234, 0x2345, 0x3456], [0x1300, 0x2345, 0x3456], [65535, 0, 0]], ">u2")
    found = decode(png(16, 2, colours.tobytes(), [0x1234, 0x2345, 0x3456]), (3, 1, 3))
    assert found[:, 0].T.tolist() == [[255, 255, 255], [0x13, 0x23, 0x34], [255, 0, 0]]


@pytest.mark.fault("TIFF of 32-bit integers")
@pytest.mark.parametrize("dtype", [np.int32, np.int16, np.uint32])
def test_integers_of_unknown_range_are_refused(dtype: type, tmp_path: Path) -> None:
    path = tmp_path / "wide.tif"
    if dtype == np.int32:
        Image.fromarray(np.array([[0, 100, 255]], np.int32)).save(path)
    else:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, np.array([[0, 100, 255]], dtype))
    with pytest.raises(DataError, match=str(path)):
        decode(path, (1, 1, 3))


@pytest.mark.fault("12-bit values in files of 16 bits")
@pytest.mark.parametrize(("most", "warned"), [(4095, True), (255, True), (4096, False), (0, False)])
def test_twelve_bits_in_sixteen_are_warned_about(most: int, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    blob = saved(Image.fromarray(np.array([[0, most // 2, most]], np.uint16)), "TIFF")
    images = [("bright", layouts.encoded(layouts.pictures(1, (1, 1, 3))[0])), ("first", blob), ("second", blob)]
    with caplog.at_level(logging.WARNING, "fragrecon"):
        (block,) = ImageDecoder((1, 1, 3)).blocks([(images, np.arange(3))])
    assert block.images[1].tolist() == [[[0, most // 2 >> 8, most >> 8]]]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == warned
    assert all("2 images" in message and "first" in message for message in messages)
    caplog.clear()
    decode(blob, (1, 1, 3), "alone")
    assert ("alone" in caplog.text) == warned


def blobs(*good: bool) -> list[tuple[str, bytes]]:
    """Images of their index as a value, and others that cannot be read."""
    flat = [np.full((1, 2, 2), number, np.uint8) for number in range(len(good))]
    return [
        (f"image{number}", layouts.encoded(flat[number]) if is_good else b"x") for number, is_good in enumerate(good)
    ]


@pytest.mark.fault("several bad images")
def test_all_bad_images_are_listed_in_one_pass() -> None:
    batches = [(blobs(True, False, True), np.arange(3)), (blobs(True, True, True, False), np.arange(4))]
    with pytest.raises(DataError) as caught:
        list(ImageDecoder((1, 2, 2)).blocks(batches))
    for name in ("2 images", "image1 ", "image3 ", "data.on_bad_image=skip"):
        assert name in str(caught.value)
    assert "image0" not in str(caught.value)


@pytest.mark.fault("a folder of bad images only")
def test_the_list_of_bad_images_is_bounded() -> None:
    read = []

    def batches() -> Iterator[tuple[list[tuple[str, bytes]], npt.NDArray[np.int64]]]:
        for number in range(100):
            read.append(number)
            yield blobs(*[False] * 8), np.arange(8)

    with pytest.raises(DataError) as caught:
        list(ImageDecoder((1, 2, 2)).blocks(batches()))
    assert str(caught.value).count("is not a readable image") == 20
    assert read == [0, 1, 2]


@pytest.mark.fault("bad images with data.on_bad_image=skip")
def test_bad_images_are_skipped_on_request() -> None:
    batches = [(blobs(False, True, False, True), np.arange(10, 14)), (blobs(False, False), np.arange(2))]
    first, last = ImageDecoder((1, 2, 2), on_bad_image="skip").blocks(batches)
    assert first.labels.tolist() == [11, 13]
    assert first.images[:, 0, 0, 0].tolist() == [1, 3]
    assert [name.split()[0] for name in first.skipped] == ["image0", "image2"]
    assert (len(last.labels), len(last.skipped)) == (0, 2)


@pytest.mark.fault("an image above Pillow's limit of pixels")
def test_images_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 10_000)).save(path)
    for read in (lambda: decode(path, (1, 4, 8)), lambda: size_of(path)):
        with pytest.raises(DataError) as caught:
            read()
        for part in (str(path), "20000x10000", "data.max_pixels=200000000"):
            assert part in str(caught.value)
    assert size_of(path, 200_000_000) == (10_000, 20_000)
    Image.new("L", (16, 8), 7).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # Pillow's own warns above it, and refuses twice as many
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(path, (1, 4, 8), max_pixels=128).tolist() == [[[7] * 8] * 4]
    assert Image.MAX_IMAGE_PIXELS == 20


@pytest.mark.fault("a Git LFS pointer instead of an image")
def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(layouts.LFS_POINTER)
    for image in (path, layouts.LFS_POINTER):
        with pytest.raises(DataError, match="Git LFS"):
            decode(image, (1, 4, 4))
