"""Whatever Pillow opens becomes what a person sees in a viewer; what it does not open is named with the reason."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from studylib.errors import StudyError
from studylib.learning.photos import read_photos
from studylib.learning.picture_files import read_picture

RAMP = np.tile(np.arange(256, dtype=np.uint8), (8, 1))  # (8, 256), black to white
SEEN = Image.fromarray(RAMP).convert("RGB")


def deep(dtype, scale=257):
    return Image.fromarray(RAMP.astype(dtype) * dtype(scale))


def see_through(mode):
    """White in its left half, see-through black in its right one."""
    image = Image.new("RGBA", (8, 8), (255, 255, 255, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    return image.convert(mode)


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def words(*texts):
    return [text.encode("utf-16-be") for text in texts]


def as_read(tmp_path, content, name="a.png"):
    (tmp_path / name).write_bytes(content)
    return read_picture(tmp_path / name)


DEEP = {  # files of one ramp
    "16-bit PNG": lambda: saved(deep(np.uint16), "PNG"),
    "16-bit TIFF": lambda: saved(deep(np.uint16), "TIFF"),
    "16-bit TIFF, big-endian": lambda: saved(
        Image.frombytes("I;16B", (256, 8), (RAMP.astype(">u2") * 257).tobytes()), "TIFF"),
    "16-bit TIFF, white is zero": lambda: saved(
        Image.fromarray(65535 - RAMP.astype(np.uint16) * 257), "TIFF", tiffinfo={262: 0}),
    "16-bit PGM": lambda: b"P5 256 8 65535\n" + (RAMP.astype(">u2") * 257).tobytes(),
    "12-bit PGM": lambda: b"P5 256 8 4095\n" + np.round(RAMP * (4095 / 255)).astype(">u2").tobytes(),
    "16-bit JPEG 2000": lambda: saved(deep(np.uint16), "JPEG2000", irreversible=False),
    "32-bit TIFF of 16-bit numbers": lambda: saved(deep(np.int32), "TIFF"),
    "32-bit TIFF": lambda: saved(deep(np.int32, 2**31 // 256), "TIFF"),
    "float TIFF up to 1": lambda: saved(deep(np.float32, 1 / 255), "TIFF"),
    "float TIFF up to 255": lambda: saved(deep(np.float32, 1), "TIFF"),
    "8-bit PNG": lambda: saved(SEEN.convert("L"), "PNG"),
    "palette": lambda: saved(SEEN.convert("L").convert("P"), "PNG"),
    "LAB TIFF": lambda: saved(ImageCms.profileToProfile(
        SEEN, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"), "TIFF"),
    "CMYK TIFF": lambda: saved(SEEN.convert("CMYK"), "TIFF"),
    "YCbCr TIFF": lambda: saved(SEEN.convert("YCbCr"), "TIFF"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEEP)
def test_a_ramp_of_any_depth_is_that_ramp(kind, tmp_path):
    """A 16-bit grey ramp was read as white from its 256th part on: a mean of 254 in place of 128."""
    found = as_read(tmp_path, DEEP[kind]())
    assert found.mode == "RGB" and found.size == (256, 8)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(SEEN)).max() <= 4


@pytest.mark.parametrize("mode, kind", [
    ("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("RGBA", "GIF"), ("RGBA", "ICO"),
    ("RGBA", "TGA"),
])  # fmt: skip
def test_what_is_see_through_is_on_white(mode, kind, tmp_path):
    """Under a cut-out stands whatever colour its editor left there, mostly black; a viewer shows none of it."""
    options = {"sizes": [(8, 8)]} if kind == "ICO" else {"lossless": True} if kind == "WEBP" else {}
    found = np.asarray(as_read(tmp_path, saved(see_through(mode), kind, **options)))
    assert found.shape == (8, 8, 3) and found.min() >= 250


def test_a_colour_named_as_see_through_is_on_white(tmp_path):
    """PNG may name one colour in place of an alpha channel, in 8 bits and in 16."""
    black = Image.new("L", (8, 8), 0)
    assert np.asarray(as_read(tmp_path, saved(black, "PNG", transparency=0))).min() == 255
    assert np.asarray(as_read(tmp_path, saved(black.convert("I;16"), "PNG", transparency=0))).min() == 255


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_seen(kind, tmp_path):
    """A viewer that does not play it shows how it begins."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    found = as_read(tmp_path, saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True))
    assert found.getpixel((4, 4))[0] > 240 and found.getpixel((4, 4))[2] < 15


def test_a_profile_decides_the_colours(tmp_path):
    """Phones store wide colours with their profile; without it they would be dull."""
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(*words("sRGB", "mine"))
    own = own.replace(b"rXYZ", b"xXYZ").replace(b"gXYZ", b"rXYZ").replace(b"xXYZ", b"gXYZ")  # red and green exchanged
    image = Image.new("RGB", (8, 8), (60, 120, 200))
    plain, damaged = (as_read(tmp_path, saved(image, "PNG", icc_profile=p)) for p in (None, b"no profile at all"))
    assert plain.getpixel((0, 0)) == damaged.getpixel((0, 0)) == (60, 120, 200)
    red, green, _ = as_read(tmp_path, saved(image, "PNG", icc_profile=own)).getpixel((0, 0))
    assert red > green


def test_a_sixteen_bit_photo_is_turned_as_well(tmp_path):
    """The camera's rotation survives the way through numbers."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert as_read(tmp_path, saved(deep(np.uint16), "PNG", exif=exif)).size == (8, 256)


def test_files_left_out_are_named_with_the_reason(tmp_path):
    """Three of five photos without a word would be another training than the reader thinks of."""
    Image.new("RGB", (8, 8)).save(tmp_path / "b.tiff")
    (tmp_path / "a.jpg").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(40))  # an iPhone's, renamed
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".DS_Store").write_bytes(b"")
    named = r"1 pictures; left out: a.jpg \(a HEIF picture, for which Pillow has no reader here\), notes.txt \(no pic"
    with pytest.warns(UserWarning, match=named):
        assert len(read_photos(tmp_path, size=8)) == 1
    with pytest.raises(StudyError, match=r"has 1 pictures, sought at least 3; left out: a.jpg \(a HEIF"):
        read_photos(tmp_path, size=8, least=3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "PPM", "TGA", "ICO", "PCX"])
def test_a_damaged_file_of_any_kind_is_one_line(kind, tmp_path):
    """Pillow's readers end in SyntaxError, struct.error, IndexError and more; the reader of the photos has to say
    which file it is, or take what a viewer would show."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), kind)
    path = tmp_path / f"torn.{kind.lower()}"
    refused = 0
    for length in (0, 1, 4, 12, len(whole) // 4, len(whole) // 2):
        for content in (whole[:length], whole[:length] + bytes(len(whole) - length)):
            path.write_bytes(content)
            try:
                picture = read_photos(tmp_path, size=8, least=1)[0]
            except StudyError as error:
                refused += 1
                assert "torn." in str(error) and "\n" not in str(error)
            else:
                assert picture.size == (8, 8)
    assert refused >= 6
