"""The whole world on one page: `python -m studylib.world.gallery [FILE]`."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from studylib.world.draw import SIZE, draw
from studylib.world.people import EXPRESSIONS, HAIRCUTS, Person, sample_person
from studylib.world.scene import COLOURS, NOUNS, PATTERNS, PLACES, STYLES, THINGS, Scene, sample_nuance, sample_scene

PAGE = Path(__file__).with_name("gallery.webp")
_GAP = 4


def rows(seed: int = 0) -> list[tuple[str, list[tuple[str, Scene]]]]:
    """The page's rows: a title and captioned scenes, 13 a row."""
    rng = random.Random(seed)

    def thing(noun: str, **fields: object) -> Scene:
        scene = sample_scene(rng)
        person = sample_person(rng) if noun == "person" else None
        upright = {"x": 0.5, "y": 0.505, "size": 0.52} if noun == "person" else {"x": 0.5, "y": 0.54, "size": 0.4}
        return replace(scene, noun=noun, person=person, rotation=0.0, **upright, **fields)

    page = [
        (
            f"{style} style",
            [(noun, thing(noun, style=style, place=PLACES[(i + j) % 5])) for i, noun in enumerate(NOUNS)],
        )
        for j, style in enumerate(STYLES)
    ]
    page.append(
        (
            "colours and accents",
            [
                (c, thing("cat", colour=c, accent=COLOURS[(i + 4) % 10], style="flat", place="plain", pattern="plain"))
                for i, c in enumerate(COLOURS)
            ]
            + [
                (f"accent {c}", thing("cat", colour="orange", accent=c, style="flat", place="plain", pattern="spots"))
                for c in ("blue", "green", "pink")
            ],
        )
    )
    page.append(
        (
            "patterns",
            [
                (p, thing(n, pattern=p, colour="teal", accent="yellow", style="flat", place="grass"))
                for n in THINGS[-4:-1]
                for p in PATTERNS
            ]
            + [("stripes", thing("person", pattern="stripes", style="flat"))],
        )
    )
    page.append(
        (
            "places",
            [(f"{p}", thing("house", place=p, style=s, colour="red")) for s in ("flat", "sketch") for p in PLACES]
            + [(f"{p}, neon", thing("house", place=p, style="neon", colour="red")) for p in PLACES[:3]],
        )
    )
    base = sample_person(rng)
    poses = [(f"turn {t:+.1f}", replace(base, turn=t, tilt=0.0)) for t in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    poses += [(f"tilt {t:+.0f}", replace(base, turn=0.0, tilt=t)) for t in (-10.0, 10.0)]
    poses += [(e, replace(base, turn=0.0, tilt=0.0, expression=e)) for e in EXPRESSIONS]
    poses += [(s, replace(base, turn=0.0, tilt=0.0)) for s in ("sketch", "papercut", "watercolor")]
    page.append(("one person", [(n, _portrait(rng, p, n if n in STYLES else "flat")) for n, p in poses]))
    people = [(c, replace(sample_person(rng), haircut=c)) for c in (*HAIRCUTS, *HAIRCUTS, *HAIRCUTS[:3])]
    page.append(("people", [(n, _portrait(rng, p, "flat")) for n, p in people]))
    return page


def _portrait(rng: random.Random, person: Person, style: str) -> Scene:
    return Scene("person", rng.choice(COLOURS), "plain", style, person=person, y=0.505, size=0.52, **sample_nuance(rng))


def gallery(seed: int = 0) -> Image.Image:
    """The page as one picture."""
    font, small = ImageFont.load_default(15), ImageFont.load_default(11)
    page = rows(seed)
    width, height = len(NOUNS) * (SIZE + _GAP), len(page) * (SIZE + 40)
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    for j, (title, scenes) in enumerate(page):
        top = j * (SIZE + 40)
        pen.text((4, top + 3), title, fill=(30, 30, 40), font=font)
        for i, (label, scene) in enumerate(scenes):
            image.paste(draw(scene, seed=100 * j + i), (i * (SIZE + _GAP), top + 22))
            pen.text((i * (SIZE + _GAP) + 2, top + SIZE + 23), label, fill=(110, 110, 120), font=small)
    return image


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    gallery().save(target, quality=72)
    print(f"wrote {target}, {target.stat().st_size // 1024} KiB")
