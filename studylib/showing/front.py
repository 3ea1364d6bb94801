"""Widgets with a front end of their own, and the JavaScript modules that the browser gets for them."""

from __future__ import annotations

import anywidget
import traitlets

PIXELS_ESM = """
function render({ model, el }) {
  const [width, height] = model.get("size");
  const box = document.createElement("div");
  const picture = document.createElement("img");
  const mark = document.createElement("div");
  box.className = "study-pixels";
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.dataset.lmSuppressShortcuts = "true";  // or the notebook would take the arrow keys
  box.style.cssText = "position:relative;cursor:crosshair;touch-action:none";
  box.style.width = `${model.get("shown_width")}px`;
  picture.src = model.get("source");
  picture.alt = "";
  picture.draggable = false;
  picture.style.cssText = "width:100%;display:block";
  mark.style.cssText = "position:absolute;width:11px;height:11px;margin:-7px;border:2px solid #fff;" +
    "outline:2px solid #222;border-radius:50%;pointer-events:none";
  box.append(picture, mark);
  el.append(box);
  const place = () => {
    const [x, y] = model.get("pixel");
    mark.style.left = `${(100 * (x + 0.5)) / width}%`;
    mark.style.top = `${(100 * (y + 0.5)) / height}%`;
    box.setAttribute("aria-label", `pixel ${x}, ${y}: choose with click or arrow keys, Shift for big steps`);
  };
  const pick = (x, y) => {
    const inside = (value, end) => Math.min(Math.max(Math.floor(value), 0), end - 1);
    model.set("pixel", [inside(x, width), inside(y, height)]);
    model.save_changes();
  };
  const point = (event) => {
    const at = picture.getBoundingClientRect();
    pick(((event.clientX - at.left) / at.width) * width, ((event.clientY - at.top) / at.height) * height);
  };
  box.addEventListener("pointerdown", (event) => { box.setPointerCapture(event.pointerId); point(event); });
  box.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
  box.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 8 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (!moves[event.key]) return;
    event.preventDefault();
    const [x, y] = model.get("pixel");
    pick(x + moves[event.key][0], y + moves[event.key][1]);
  });
  model.on("change:pixel", place);
  place();
  return () => model.off("change:pixel", place);
}
export default { render };
"""

HIDES_PICTURE_ESM = """
function render({ el }) {
  let shown = true, picture = null;
  el.style.display = "none";
  const hide = () => {
    if (!shown) return;
    if (!el.isConnected) return requestAnimationFrame(hide);
    picture = el.closest(".jp-OutputArea-child")?.previousElementSibling;
    if (picture?.querySelector("img")) picture.style.display = "none";
  };
  hide();
  return () => { shown = false; if (picture) picture.style.display = ""; };
}
export default { render };
"""


class HidesPicture(anywidget.AnyWidget):
    """Nothing to see: it hides the picture in the output above, which the live view shows as well."""

    _esm = HIDES_PICTURE_ESM


class Pixels(anywidget.AnyWidget):
    """A picture with one chosen pixel (x, y), counted from the top left."""

    _esm = PIXELS_ESM
    source = traitlets.Unicode().tag(sync=True)
    size = traitlets.List(traitlets.Int()).tag(sync=True)
    shown_width = traitlets.Int().tag(sync=True)
    pixel = traitlets.List(traitlets.Int(), minlen=2, maxlen=2).tag(sync=True)

    @traitlets.validate("pixel")
    def _inside(self, proposal: dict) -> list[int]:
        (x, y), (width, height) = proposal["value"], self.size
        return [min(max(x, 0), width - 1), min(max(y, 0), height - 1)]
