"""Endless scenes for training, held-out scenes for measuring: split by seed, drawn on all cores, kept on disk."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from studylib.world.draw import SIZE, draw
from studylib.world.people import sample_pose
from studylib.world.scene import NUANCE, PLACES, STYLES, Scene, sample_nuance, sample_placement, sample_scene

HELD_OUT = 1_000_000_000  # scene numbers from here on are never trained on
_BLOCK = 500


def scene_number(number: int) -> Scene:
    """The scene with this number; numbers from `HELD_OUT` on are the held-out split."""
    return sample_scene(random.Random(number))


def held_out(count: int, first: int = 0) -> list[Scene]:
    """`count` scenes that no recipe has trained on."""
    return [scene_number(HELD_OUT + first + i) for i in range(count)]


def other_view(scene: Scene, rng: random.Random) -> Scene:
    """The same subject in the same style elsewhere: place, position, size, pose and expression are new; what the
    subject is and the nuance of the style stay."""
    person = None if scene.person is None else replace(scene.person, **sample_pose(rng))
    return replace(scene, place=rng.choice(PLACES), person=person, **sample_placement(rng, scene.noun))


def other_style(scene: Scene, rng: random.Random) -> Scene:
    """The same subject elsewhere in another style."""
    style = rng.choice([s for s in STYLES if s != scene.style])
    return replace(other_view(scene, rng), style=style, **sample_nuance(rng))


def style_mate(scene: Scene, rng: random.Random) -> Scene:
    """Another noun, in other colours at another place, drawn in the very same nuance of the same style."""
    other = sample_scene(rng)
    while other.noun == scene.noun:
        other = sample_scene(rng)
    return replace(other, style=scene.style, **{name: getattr(scene, name) for name in NUANCE})


_VIEWS = (lambda scene, rng: scene, other_view, other_style, style_mate)


def numbered_view(number: int, view: int) -> Scene:
    """View 0 is the scene itself, 1 another view of its subject, 2 its subject in another style, 3 another noun in
    the same nuance of its style."""
    return _VIEWS[view](scene_number(number), random.Random((number << 8) + view))


def pictures(count: int, folder: Path, first: int = 0, view: int = 0, workers: int = 2) -> np.ndarray:
    """Pictures of scenes `first` to `first + count - 1`, (count, 128, 128, 3) uint8, as a memory map on disk.

    Blocks that are already there are not drawn again, so an interrupted call goes on where it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"pictures_{first}_{count}_view{view}.npy"
    done = folder / f"{path.stem}.blocks"
    if not path.exists():
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3)).flush()
        done.unlink(missing_ok=True)
    finished = set(done.read_text().split()) if done.exists() else set()
    todo = [b for b in range(0, count, _BLOCK) if str(b) not in finished]
    if todo:
        with ProcessPoolExecutor(workers) as pool, done.open("a") as log:
            jobs = (pool.submit(_draw_block, path, first, view, b, min(b + _BLOCK, count)) for b in todo)
            for job in tqdm([*jobs], desc="drawing scenes", unit_scale=_BLOCK):
                log.write(f"{job.result()}\n")
                log.flush()
    return np.load(path, mmap_mode="r")


def _draw_block(path: Path, first: int, view: int, start: int, stop: int) -> int:
    array = np.load(path, mmap_mode="r+")
    for i in range(start, stop):
        array[i] = np.asarray(draw(numbered_view(first + i, view), seed=first + i + (view << 40)))
    array.flush()
    return start
