"""Photos of a subject from a folder: turned upright, cut square, checked one by one."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from studylib.errors import StudyError
from studylib.files import contents
from studylib.world.subjects import SUBJECTS, training_pictures

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def read_photos(folder: str | Path, *, size: int, least: int = 1) -> list[Image.Image]:
    """Read every picture in `folder`, by name, as RGB squares of `size` pixels cut from the middle.

    A camera's rotation is applied. Raises StudyError for a folder that is none, a picture that cannot be read (naming
    it), and fewer than `least` pictures.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise StudyError(f"{path} is no folder", "Give a folder with pictures of one subject")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
    if len(files) < least:
        raise StudyError(
            f"{path} has {len(files)} pictures, sought at least {least} ({', '.join(ENDINGS)}). {contents(path)}",
            "Add pictures of the subject from other sides and in other places",
        )
    return [_read(file, size) for file in files]


def subject_photos(images: str, subject: str, count: int, size: int) -> list[Image.Image]:
    """Pictures to learn a subject from: those in the folder `images`, or `count` of the tiny world's `subject`."""
    if images:
        return read_photos(images, size=size, least=3)
    if subject not in SUBJECTS:
        raise StudyError(
            f"the tiny world has no subject {subject!r}; it has: {', '.join(SUBJECTS)}",
            "Choose one of them, or give images=\"folder\" with photos of your own",
        )
    return [photo.resize((size, size)) for photo in training_pictures(SUBJECTS[subject], count)]


def _read(file: Path, size: int) -> Image.Image:
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise StudyError(f"{file} cannot be read as a picture: {error}", "Replace it or remove it") from error
    return ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
