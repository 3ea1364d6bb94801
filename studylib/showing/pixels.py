"""The front end of `widgets.pixel_picker`, as the one JavaScript module the browser gets."""

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
