"""Photos of a subject from a folder: turned upright, cut square, checked one by one."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps

from studylib.errors import StudyError
from studylib.files import contents
from studylib.learning.picture_files import NoPictureError, read_picture
from studylib.world.subjects import SUBJECTS, training_pictures


def read_photos(folder: str | Path, *, size: int, least: int = 1) -> list[Image.Image]:
    """Read every picture in `folder`, by name, as RGB squares of `size` pixels cut from the middle.

    Pictures are as a viewer shows them, see `read_picture`; other files are left out, with a warning that names them.
    Raises StudyError for a folder that is none, a damaged picture (naming it), and fewer than `least` pictures.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise StudyError(f"{path} is no folder", "Give a folder with pictures of one subject")
    found, left_out = [], []
    for file in sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")):
        try:
            found.append(read_picture(file))
        except NoPictureError as error:
            left_out.append(f"{file.name} ({error})")
        except (ValueError, OSError) as error:
            raise StudyError(f"{file} cannot be read as a picture: {error}", "Replace it or remove it") from error
    without = f"; left out: {', '.join(left_out[:8])}{', ...' if len(left_out) > 8 else ''}" if left_out else ""
    if len(found) < least:
        raise StudyError(
            f"{path} has {len(found)} pictures, sought at least {least}{without}. It {contents(path)}",
            "Add pictures of the subject from other sides and in other places, or save those as JPEG or PNG",
        )
    if left_out:
        warnings.warn(f"{path}: {len(found)} pictures{without}", stacklevel=2)
    return [ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS) for picture in found]


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
