"""Endless scenes for training, held-out scenes for measuring: split by seed, drawn on all cores, kept on disk."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from studylib.world.draw import SIZE, draw
from studylib.world.people import EXPRESSIONS
from studylib.world.scene import PLACES, Scene, sample_placement, sample_scene

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
    person = scene.person
    if person is not None:
        person = replace(person, turn=rng.uniform(-1, 1), tilt=rng.uniform(-10, 10), expression=rng.choice(EXPRESSIONS))
    return replace(scene, place=rng.choice(PLACES), person=person, **sample_placement(rng, scene.noun))


def numbered_view(number: int, view: int) -> Scene:
    """View 0 is the scene itself, view 1, 2, ... are other views of its subject."""
    scene = scene_number(number)
    return other_view(scene, random.Random((number << 8) + view)) if view else scene


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
