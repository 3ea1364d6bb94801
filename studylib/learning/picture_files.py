"""Picture files of every mode and depth that Pillow opens, as a person sees them in a viewer."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

NOT_READ = ("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5")  # need another program, or are only recognised by Pillow
OTHER = {  # endings and first bytes of pictures that Pillow reads with a plugin at most; HEIC is a HEIF
    ".heic": "HEIF", ".heif": "HEIF", ".avif": "AVIF", ".svg": "SVG", ".pdf": "PDF", ".eps": "EPS", ".cr2": "raw",
    ".cr3": "raw", ".nef": "raw", ".arw": "raw", ".raf": "raw", ".orf": "raw", ".rw2": "raw", ".jxl": "JPEG XL",
}  # fmt: skip
BRANDS = {b"heic": "HEIF", b"heix": "HEIF", b"hevc": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}
TURNS = {  # by the camera's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
ORIENTATION, PHOTOMETRIC, BITS_PER_SAMPLE = 0x0112, 262, 258


class NoPictureError(Exception):
    """A file that is none of the pictures that can be read; the text says what it is."""


def read_picture(file: Path) -> Image.Image:
    """Read a picture as RGB: upright, its first frame, in sRGB, on white where it is see-through.

    Raises NoPictureError for a file that is no picture or of a kind without a reader, ValueError with one line for one
    that is damaged.
    """
    formats = _formats()
    try:
        with Image.open(file, formats=formats) as image:
            image.load()
            return as_seen(image)
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        kind = _other_kind(file)
        if kind is not None and (kind in NOT_READ or kind not in formats):
            raise NoPictureError(f"a {kind} picture, for which Pillow has no reader here") from error
        endings = {ending for ending, name in Image.registered_extensions().items() if name in formats}
        if isinstance(error, Image.UnidentifiedImageError) and file.suffix.lower() not in endings:
            raise NoPictureError("no picture") from error
        cause = "nothing in it is a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise ValueError(" ".join(cause.split()) or type(error).__name__) from error


def as_seen(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode as RGB."""
    turn = TURNS.get(image.getexif().get(ORIENTATION))
    alpha = None
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image, alpha = _eight_bits(image)
    elif image.mode == "LAB":
        image = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    elif image.has_transparency_data or image.mode in ("La", "RGBa"):
        profile = image.info.get("icc_profile")
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
        image.info["icc_profile"] = profile
    colours = _in_srgb(image)
    if alpha is not None:
        colours = Image.composite(colours, Image.new("RGB", colours.size, "white"), alpha)
    return colours if turn is None else colours.transpose(turn)


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A grey picture of whole numbers or floats as 8 bits, and its alpha channel if one value is see-through."""
    values = np.asarray(image).astype(np.float64)  # (H, W)
    values = np.nan_to_num(values, nan=0.0, posinf=np.finfo(np.float32).max, neginf=0.0)
    tags = getattr(image, "tag_v2", {})
    low, high = 0.0, _white(image.mode, values, tags)
    if values.min() < 0:  # no viewer agrees with another; all of it is shown
        low, high = values.min(), values.max()
    shown = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero
        shown = 1 - shown
    grey = Image.fromarray(np.round(255 * shown).astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey, None
    return grey, Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8))


def _white(mode: str, values: np.ndarray, tags: object) -> float:
    """The number that is shown as white."""
    highest = values.max()
    if mode.startswith("I;"):
        return 4095.0 if tags.get(BITS_PER_SAMPLE) == (12,) and highest <= 4095 else 65535.0
    if mode == "F" and highest <= 255:
        return 1.0 if highest <= 1 else 255.0
    return 65535.0 if highest <= 65535 else float(highest) if mode == "F" else 2.0**31 - 1


def _in_srgb(image: Image.Image) -> Image.Image:
    """RGB with the colours that the picture's own profile means; one that is damaged or of another kind is ignored."""
    profile = image.info.get("icc_profile")
    image = image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")
    if profile:
        try:
            own = ImageCms.getOpenProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(own):
                return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except ImageCms.PyCMSError:
            return image.convert("RGB")
    return image.convert("RGB")


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name not in NOT_READ]


def _other_kind(file: Path) -> str | None:
    """The kind of a picture that Pillow alone does not read, by its first bytes or its ending."""
    with file.open("rb") as stream:
        start = stream.read(12)
    return BRANDS.get(start[8:12]) if start[4:8] == b"ftyp" else OTHER.get(file.suffix.lower())
