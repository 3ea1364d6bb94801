"""Toggles and sliders over plain functions: with `front`, the only module that imports ipywidgets and anywidget.

Pictures live in `widgets.Image`, never in `widgets.Output`, on which a notebook executed without a front end
can hang. Beside each picture its state stands as text, for screen readers and for tests.
"""

from __future__ import annotations

import html
import io
import itertools
import time
import traceback
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from studylib.showing import figures
from studylib.showing.front import HidesPicture, Pixels
from studylib.showing.worker import Cancellation, Cancelled, NewestWins, cancel_callback

__all__ = ["Cancelled", "all_states", "cancel_callback", "compare", "pixel_picker", "static_grid"]

Pictures = Image.Image | Sequence[Image.Image]
WIDEST = 560  # pixels on the page: stays beside the controls in a notebook of ordinary width


class Live:
    """A picture with its state as text, redrawn for the newest values only.

    For readers and tests: `image` and `status` (widgets), `state` (the text), `error` (the last exception or
    None) and `drawings` (how often the function ran to its end). `delay`: seconds without a change before
    drawing.
    """

    def __init__(self, draw: Callable[[dict, Cancellation], Pictures], *, columns: int | None = None,
                 threaded: bool = True, delay: float = 0.08, remember: int = 64,
                 width: int | None = None) -> None:
        self._draw = draw
        self._columns = columns
        self._threaded = threaded
        self._remember = max(1, remember)
        self._width = width
        self._drawn: OrderedDict[tuple, bytes] = OrderedDict()
        self._newest = NewestWins(
            self._show, delay=delay, on_step=lambda step, steps: self._say(f"drawing… step {step}/{steps}"),
        )
        self.image = ipywidgets.Image(format="jpeg")
        self.status = ipywidgets.HTML()
        self.view: ipywidgets.Box | None = None
        self.state = ""
        self.error: BaseException | None = None
        self.drawings = 0

    def wait(self, timeout: float = 60.0) -> bool:
        """Return when the picture shows the newest values; false if `timeout` seconds were too few."""
        return self._newest.wait(timeout)

    def close(self) -> None:
        """Stop the work and free every widget."""
        self._newest.close()
        for part in (self.view, self.image, self.status):
            _close(part)
        self._drawn.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ipython_display_(self) -> None:
        """Two outputs: the picture as it stands, for whoever opens the saved notebook, and the live view, which hides
        the picture while it lives. In one output JupyterLab would prefer the view, and say "model not found"."""
        text = self._text(self.values)
        display({"image/jpeg": b64encode(self.image.value).decode(), "text/plain": text}, raw=True)
        display(self.view._repr_mimebundle_() | {"text/plain": text}, raw=True)

    @property
    def values(self) -> dict[str, Any]:
        """What the controls say now, by name; hashable."""
        raise NotImplementedError

    def _start(self, view: ipywidgets.Box, initial: Pictures | None) -> None:
        """Draw the first picture in the caller's thread, where an error stops the notebook."""
        self.view = view
        view.children = (*view.children, HidesPicture())
        try:
            if initial is not None:
                self._remember_drawn(tuple(self.values.items()), self._encode(initial))
            self._newest.work_here(self.values)
            if self.error is not None:
                raise self.error
        except BaseException:
            self.close()
            raise

    def _changed(self, change: dict) -> None:
        if not self._threaded:
            self._newest.work_here(self.values)
        elif not self._newest.request(self.values):
            self._say("waits for the running cell")

    def _show(self, values: dict, cancelled: Cancellation) -> None:
        """Put the picture of `values` on the page, from memory if it was drawn before, or the error."""
        start = time.monotonic()
        key = tuple(values.items())
        try:
            if key not in self._drawn:
                self._say("drawing…")
                self._remember_drawn(key, self._encode(self._draw(values, cancelled)))
                self.drawings += 1
            self._drawn.move_to_end(key)
            if not cancelled():
                self.error = None
                self.image.value = self._drawn[key]
                self._say(f"{self._text(values)} · {time.monotonic() - start:.1f} s")
        except Exception as error:
            if not cancelled():  # else something newer replaces this picture anyway
                self._fail(error)

    def _text(self, values: Mapping[str, Any]) -> str:
        return " ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                        for name, value in values.items())

    def _say(self, text: str) -> None:
        self.state = text
        self.status.value = f'<span class="study-state" role="status">{html.escape(text)}</span>'

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.state = f"{type(error).__name__}: {error}"
        self.status.value = (
            '<span class="study-state study-error" role="alert" style="color:#B00020">'
            f"{html.escape(self.state)}</span><details><summary>traceback</summary>"
            f"<pre>{html.escape(''.join(traceback.format_exception(error)))}</pre></details>"
        )

    def _remember_drawn(self, key: tuple, encoded: bytes) -> None:
        self._drawn[key] = encoded
        while len(self._drawn) > self._remember:
            self._drawn.popitem(last=False)

    def _encode(self, pictures: Pictures) -> bytes:
        picture = pictures if isinstance(pictures, Image.Image) else figures.sheet(pictures, self._columns)
        self.image.layout.width = f"{self._width or min(2 * picture.width, WIDEST)}px"
        self.image.layout.max_width = "100%"
        encoded = io.BytesIO()
        picture.convert("RGB").save(encoded, "JPEG", quality=90, subsampling=0)
        return encoded.getvalue()


class Compare(Live):
    """What `compare` returns: the widgets by name in `controls`, and the picture they draw."""

    def __init__(self, function: Callable[..., Pictures], controls: dict[str, ipywidgets.Widget],
                 options: dict[str, dict[str, Any]], initial: Pictures | None, **settings: Any) -> None:
        self.controls = controls
        self._options = options
        super().__init__(self._call, **settings)
        self._function = function
        for control in controls.values():
            control.observe(self._changed, names="value")
        panel = ipywidgets.VBox([*controls.values(), self.status], layout={"min_width": "320px"})
        self._start(ipywidgets.HBox([panel, self.image], layout={"flex_flow": "row wrap"}), initial)

    @property
    def values(self) -> dict[str, Any]:
        """What the controls say now, by name; for choices the label."""
        return {name: control.value for name, control in self.controls.items()}

    def _call(self, values: dict[str, Any], cancelled: Cancellation) -> Pictures:
        chosen = {name: options[values[name]] for name, options in self._options.items()}
        return self._function(**values | chosen, cancelled=cancelled)


class PixelPicker(Live):
    """What `pixel_picker` returns: `pixels.pixel` is the chosen (x, y), `image` the answer to it."""

    def __init__(self, image: Image.Image, on_pick: Callable[[int, int], Pictures], pixel: tuple[int, int],
                 **settings: Any) -> None:
        super().__init__(lambda values, cancelled: on_pick(values["x"], values["y"]), **settings)
        encoded = io.BytesIO()
        image.convert("RGB").save(encoded, "PNG")
        source = "data:image/png;base64," + b64encode(encoded.getvalue()).decode()
        self.pixels = Pixels(source=source, size=list(image.size), pixel=list(pixel),
                              shown_width=settings.get("width") or 2 * image.width)
        self.pixels.observe(self._changed, names="pixel")
        pictures = ipywidgets.HBox([self.pixels, self.image], layout={"flex_flow": "row wrap"})
        self._start(ipywidgets.VBox([pictures, self.status]), None)

    @property
    def values(self) -> dict[str, Any]:
        """The chosen pixel as x and y."""
        return dict(zip("xy", self.pixels.pixel, strict=True))


def compare(function: Callable[..., Pictures], *, toggles: Mapping[str, bool] | None = None,
            sliders: Mapping[str, tuple[float, float, float, float]] | None = None,
            choices: Mapping[str, Sequence[Any] | Mapping[str, Any]] | None = None,
            texts: Mapping[str, str] | None = None, seeds: Sequence[int] = (),
            labels: Mapping[str, str] | None = None, tooltips: Mapping[str, str] | None = None,
            initial: Pictures | None = None, **settings: Any) -> Compare:
    """Show what `function(**values, cancelled)` draws beside a control for each value.

    `toggles`: name -> on; `sliders`: name -> (low, high, step, value), whole numbers give whole numbers;
    `choices`: name -> values, or label -> value; `seeds`: the choices of a value named `seed`. `labels` and
    `tooltips` replace the default ones by name. `function` returns a picture or several, set in `columns`;
    give `cancelled` to `cancel_callback` so that moving on stops it between denoising steps. `initial`: the
    first picture, if it is there already. Further settings: `columns`, `width` (pixels on the page),
    `threaded` (False: draw at once, in the caller's thread), `delay` (seconds), `remember` (pictures kept).
    Raises what the first drawing raises; later errors stand in the widget.
    """
    choices = dict(choices or {}) | ({"seed": list(seeds)} if seeds else {})
    options = {name: dict(values) if isinstance(values, Mapping) else {str(value): value for value in values}
               for name, values in choices.items()}
    names = [*(toggles or ()), *(sliders or ()), *choices, *(texts or ())]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"compare: sought one control or more with distinct names, got {names or 'none'}")
    controls: dict[str, ipywidgets.Widget] = {}
    for name in names:
        common = {"description": (labels or {}).get(name, name.replace("_", " ")),
                  "tooltip": (tooltips or {}).get(name, name),
                  "layout": {"width": "300px"}, "style": {"description_width": "initial"}}
        if name in (toggles or {}):
            controls[name] = ipywidgets.Checkbox(value=toggles[name], indent=False, **common)
        elif name in (sliders or {}):
            low, high, step, value = sliders[name]
            whole = all(isinstance(number, int) for number in sliders[name])
            kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
            controls[name] = kind(value=value, min=low, max=high, step=step, **common)
        elif name in options:
            controls[name] = ipywidgets.Dropdown(options=list(options[name]), **common)
        else:
            controls[name] = ipywidgets.Text(value=texts[name], continuous_update=False, **common)
    return Compare(function, controls, options, initial, **settings)


def pixel_picker(image: Image.Image, on_pick: Callable[[int, int], Pictures], *,
                 pixel: tuple[int, int] | None = None, **settings: Any) -> PixelPicker:
    """Show `image`; a click or the arrow keys choose a pixel, and the picture `on_pick(x, y)` returns stands
    beside.

    x and y count from the top left, in the image's own pixels. Starts at `pixel`, or in the middle. Settings
    as in `compare`.
    """
    return PixelPicker(image, on_pick, pixel or (image.width // 2, image.height // 2), **settings)


def all_states(toggles: Iterable[str]) -> list[dict[str, bool]]:
    """List every combination of the toggles, all off first, all on last."""
    names = list(toggles)
    return [dict(zip(names, on, strict=True)) for on in itertools.product((False, True), repeat=len(names))]


def static_grid(function: Callable[..., Pictures],
                states: Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]], *,
                titles: Sequence[str] | None = None, title: str = "", **fixed: Any) -> Figure:
    """Draw every state for readers without a kernel: a row each, or a tile each where `function` draws one
    picture.

    `states`: values for `function`, or heading -> values; `fixed` values are added to each. `titles`: of the
    columns.
    """
    if not isinstance(states, Mapping):
        states = {", ".join(f"{name} = {value}" for name, value in state.items()): state for state in states}
    drawn = {name: function(**fixed, **state, cancelled=lambda: False) for name, state in states.items()}
    if all(isinstance(pictures, Image.Image) for pictures in drawn.values()):
        return figures.grid(list(drawn.values()), min(4, len(drawn)), list(drawn), title=title)
    return figures.comparison(drawn, titles, title=title, reference=None)


def _close(widget: ipywidgets.Widget | None) -> None:
    """Close a widget with all it contains; its layout and style are widgets of their own."""
    if widget is not None:
        parts = [getattr(widget, name, None) for name in ("layout", "style")]
        for part in (*getattr(widget, "children", ()), *parts):
            _close(part)
        widget.close()
