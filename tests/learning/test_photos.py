"""A folder of photos is what a reader brings: turned by the camera, of any shape, sometimes broken."""

import pytest
from PIL import Image

from studylib.errors import StudyError
from studylib.learning.photos import read_photos, subject_photos


def photo(path, size=(60, 40), orientation=None):
    """A picture whose left half is red and right half blue."""
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif)


def test_photos_come_by_name_square_and_upright(tmp_path):
    """A phone stores a portrait lying down and says so in EXIF: the upper half must come out as red."""
    photo(tmp_path / "b.png")
    photo(tmp_path / "a.jpg", orientation=6)  # to be turned a quarter clockwise: left becomes top
    first, second = read_photos(tmp_path, size=32)
    assert first.size == second.size == (32, 32) and first.mode == "RGB"
    top, bottom = first.getpixel((16, 4)), first.getpixel((16, 28))
    assert top[0] > 200 > bottom[0] and bottom[2] > 200
    assert second.getpixel((4, 16))[0] > 200 and second.getpixel((28, 16))[2] > 200


def test_a_greyscale_or_transparent_picture_becomes_rgb(tmp_path):
    """Whatever mode a file has, the autoencoder takes three channels."""
    Image.new("L", (10, 10), 128).save(tmp_path / "a.png")
    Image.new("RGBA", (10, 10), (1, 2, 3, 0)).save(tmp_path / "b.webp")
    assert [image.mode for image in read_photos(tmp_path, size=8)] == ["RGB", "RGB"]


def test_too_few_and_broken_photos_are_named(tmp_path):
    """The error has to say what was there and which file is at fault."""
    with pytest.raises(StudyError, match="is no folder"):
        read_photos(tmp_path / "absent", size=8)
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(StudyError, match=r"has 0 pictures, sought at least 3.*holds readme.md"):
        read_photos(tmp_path, size=8, least=3)
    photo(tmp_path / "good.png")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    with pytest.raises(StudyError, match="torn.jpg cannot be read"):
        read_photos(tmp_path, size=8)


def test_a_subject_comes_from_the_tiny_world_or_from_a_folder(tmp_path):
    """One parameter decides; a subject that the tiny world does not have is refused with the ones it has."""
    drawn = subject_photos("", "boat", 3, 32)
    assert len(drawn) == 3 and drawn[0].size == (32, 32) and drawn[0].tobytes() != drawn[1].tobytes()
    for i in range(3):
        photo(tmp_path / f"{i}.jpg")
    own = subject_photos(str(tmp_path), "boat", 3, 32)
    assert own[0].getpixel((4, 16))[0] > 200 and own[0].tobytes() != drawn[0].tobytes()
    with pytest.raises(StudyError, match="no subject 'dog'; it has: cat, boat"):
        subject_photos("", "dog", 3, 32)
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(StudyError, match="sought at least 3"):
        subject_photos(str(tmp_path), "boat", 3, 32)
