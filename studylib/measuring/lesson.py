"""One subject to teach, and how every method that is taught it is looked at, measured and put on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self

from PIL import Image

from studylib.denoisers.denoiser import Denoiser
from studylib.measuring.encoders import Encoders
from studylib.measuring.subject import Measured, mean_of, means, measure_views, prediction_drift
from studylib.measuring.views import Views, draw_views
from studylib.showing import figures
from studylib.showing.tables import Table

PREFIX, PICTURE = "lesson: ", "lesson"  # of the metrics and the figure that a notebook records
MEASURES = ("DINO", "CLIP-I", "CLIP-T", "judged", "PRES")  # columns of the table of methods
SHOWN = (0, 2, 3, 4, 5)  # contexts in its picture, after the bare subject


class Training(Protocol):
    """What a training cost, such as a `History`."""

    parameters: int
    memory_mib: float

    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class Lesson:
    """What all methods are given that learn one subject: the pipeline, photos, words, noise, and who measures.

    subject, class_prompt: in words, "a sks cat" and "a cat". sampling: arguments of the pipeline. untouched: the views
    of the pipeline before anything was learned. `dataclasses.replace` gives the same lesson with other words.
    """

    pipe: Any
    photos: Sequence[Image.Image]
    subject: str
    class_prompt: str
    seed: int
    encoders: Encoders
    sampling: Mapping[str, Any]
    untouched: Views

    @classmethod
    def prepare(
        cls, pipe: Any, photos: Sequence[Image.Image], subject: str, class_prompt: str, seed: int,
        encoders: Encoders, **sampling: Any,
    ) -> Self:
        """Draw the untouched views and make the lesson of them."""
        untouched = draw_views(pipe, subject, class_prompt, seed, **sampling)
        return cls(pipe, photos, subject, class_prompt, seed, encoders, sampling, untouched)

    def views(self, learned: AbstractContextManager, **options: Any) -> Views:
        """What the pipeline draws inside `learned`, from the noise of the untouched views; `options` as `draw_views`
        takes them."""
        with learned:
            return draw_views(self.pipe, self.subject, self.class_prompt, self.seed, **dict(self.sampling) | options)

    def measure(self, views: Views) -> Measured:
        """Every measure of `measure_views`, against the photos."""
        return measure_views(views, self.photos, self.class_prompt, self.encoders)

    def drift(self, learned: AbstractContextManager) -> dict[str, float]:
        """`prediction_drift` inside `learned`, by number of the picture: of the class, as no training saw them."""
        latents = Denoiser(self.pipe).encode(self.untouched.of_class)
        moved = prediction_drift(self.pipe, learned, latents, self.class_prompt)  # (N,)
        return {str(i): value for i, value in enumerate(moved.tolist())}


@dataclass(frozen=True)
class Closing:
    """A method's row in the table of methods, and its strip of pictures; `metrics` and `figures` are for `record`."""

    row: dict[str, float]
    strip: list[Image.Image]

    @property
    def metrics(self) -> dict[str, float]:
        return {PREFIX + name: value for name, value in self.row.items()}

    @property
    def figures(self) -> dict[str, Image.Image]:
        return {PICTURE: figures.sheet(self.strip, gap=0)}

    @property
    def table(self) -> Table:
        return Table({"this run": self.row})

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def close_lesson(
    views: Views, measured: Measured, *, drift: Mapping[str, float] | None = None, history: Training | None = None,
    file_bytes: int | None = None,
) -> Closing:
    """What a paper's last section records of its method, `measured` being that of `views`.

    What a method has not is left out: a `drift` from `Lesson.drift`, the `history` of a training, the size of a saved
    file in bytes. Raises ValueError for views without the bare subject or the contexts of the picture.
    """
    if not views.of_subject or len(views.in_contexts) <= max(SHOWN):
        raise ValueError(
            f"the picture needs the bare subject and {max(SHOWN) + 1} contexts; drawn were {len(views.of_subject)} "
            f"and {len(views.in_contexts)}"
        )
    found = means(measured)
    row = {name: found[name] for name in MEASURES if name in found}
    if drift is not None:
        row["drift"] = mean_of(drift)
    if history is not None:
        row["parameters (k)"] = history.parameters / 1000
    if file_bytes is not None:
        row["file (kB)"] = file_bytes / 1000
    if history is not None:
        row |= {"training (s)": history.seconds, "memory (MiB)": history.memory_mib}
    return Closing(row, [views.of_subject[0], *(views.in_contexts[i] for i in SHOWN)])
