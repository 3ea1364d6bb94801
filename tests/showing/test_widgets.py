"""Interactive comparison: newest value wins, nothing is lost, nothing is left behind, nothing hangs."""

import base64
import io
import threading
import time

import ipywidgets
import nbformat
import pytest
import torch
from ipywidgets.widgets.widget import _instances
from nbclient import NotebookClient
from PIL import Image

from studylib.showing import widgets, worker
from tests import tiny_pipelines

COLOURS = {True: (200, 0, 0), False: (0, 0, 200)}


def paint(share_attention: bool, seed: int = 0, *, cancelled, **rest) -> Image.Image:
    red, green, blue = COLOURS[share_attention]
    return Image.new("RGB", (16, 16), (red, green + seed, blue))


def colour(live: widgets.Live) -> tuple[int, int, int]:
    pixel = Image.open(io.BytesIO(live.image.value)).getpixel((8, 8))
    return tuple(round(channel, -1) for channel in pixel)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """No test may leave a live widget or a thread: a notebook with ten of them would grow with every run."""
    before = set(_instances)
    yield
    assert set(_instances) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "newest-wins"]


def test_controls_have_names_tooltips_and_their_values():
    """A reader must find the paper's knob by its name, and the function gets each value as given."""
    got = {}

    def note(**values):
        got.update(values)
        return Image.new("RGB", (16, 16))

    with widgets.compare(
        note, toggles={"share_attention": True},
        sliders={"shift": (-2.0, 2.0, 0.5, 0.5), "steps": (1, 9, 1, 3)},
        choices={"reference": {"cat": (1, 2), "boat": (3, 4)}, "layers": [4, 8]}, texts={"prompt": "a cat"},
        seeds=[7, 8], labels={"shift": "score shift"}, tooltips={"steps": "denoising steps"}, threaded=False,
    ) as live:
        assert got.pop("cancelled")() is False
        assert got == {"share_attention": True, "shift": 0.5, "steps": 3, "reference": (1, 2), "layers": 4,
                       "prompt": "a cat", "seed": 7}
        assert live.controls["share_attention"].description == "share attention"
        assert live.controls["shift"].description == "score shift"
        assert live.controls["steps"].tooltip == "denoising steps"
        assert isinstance(live.controls["steps"], ipywidgets.IntSlider)
        assert isinstance(live.controls["shift"], ipywidgets.FloatSlider)
        live.controls["reference"].value = "boat"
        assert got["reference"] == (3, 4)
        state = "share_attention=True shift=0.5 steps=3 reference=boat layers=4 seed=7 prompt=a cat"
        assert live.state.rsplit(" · ", 1)[0] == state


def test_changed_value_changes_picture_and_text():
    """The widget's whole purpose, without a front end."""
    with widgets.compare(paint, toggles={"share_attention": True}, threaded=False) as live:
        assert colour(live) == (200, 0, 0)
        live.controls["share_attention"].value = False
        assert colour(live) == (0, 0, 200)
        assert live.state.startswith("share_attention=False · ")
        assert live.state in live.status.value


def test_pictures_seen_before_come_from_memory_up_to_a_bound():
    """Toggling back is instant, and a long session does not keep every picture for ever."""
    with widgets.compare(
        paint, toggles={"share_attention": True}, seeds=[0, 10, 20], threaded=False, remember=2,
    ) as live:
        live.controls["share_attention"].value = False
        live.controls["share_attention"].value = True
        assert live.drawings == 2 and colour(live) == (200, 0, 0)
        live.controls["seed"].value = "10"  # pushes out the state seen longest ago
        live.controls["seed"].value = "0"
        assert live.drawings == 3
        live.controls["share_attention"].value = False
        assert live.drawings == 4


def test_initial_picture_is_not_drawn_again():
    """A notebook that has the pictures already need not pay for them twice."""
    given = Image.new("RGB", (16, 16), (0, 200, 0))
    with widgets.compare(paint, toggles={"share_attention": True}, initial=given, threaded=False) as live:
        assert live.drawings == 0 and colour(live) == (0, 200, 0)


def test_several_pictures_stand_in_columns():
    """A set of pictures is one picture on the page; rows and gaps are the grid's."""
    def four(on, cancelled):
        return [Image.new("RGB", (16, 16))] * 4

    with widgets.compare(four, toggles={"on": True}, columns=2, threaded=False) as live:
        assert Image.open(io.BytesIO(live.image.value)).size == (36, 36)


def test_newest_value_wins_and_running_work_is_cancelled():
    """A slider passes many positions: running work stops at its next step, those in between never begin."""
    begun, stopped, going = [], [], threading.Event()

    def slow(shift, cancelled):
        begun.append(shift)
        if shift:
            going.set()
        for _ in range(500 if shift == 1 else 1):
            if cancelled():
                stopped.append(shift)
                raise widgets.Cancelled
            time.sleep(0.01)
        return Image.new("RGB", (16, 16), (0, 0, 10 * shift))

    with widgets.compare(slow, sliders={"shift": (0, 20, 1, 0)}, delay=0.02) as live:
        live.controls["shift"].value = 1
        assert going.wait(5)
        assert live.state == "drawing…"
        for shift in range(2, 21):
            live.controls["shift"].value = shift
        assert live.wait(10)
        assert begun == [0, 1, 20] and stopped == [1]
        assert colour(live) == (0, 0, 200) and live.state.startswith("shift=20 · ")
        assert live.error is None


def test_finished_but_outdated_picture_is_not_shown():
    """A function that cannot stop must not overwrite what was asked for after it; its picture is kept."""
    going, finish = threading.Event(), threading.Event()

    def deaf(shift, cancelled):
        if shift == 1:
            going.set()
            finish.wait(5)
        return Image.new("RGB", (16, 16), (0, 0, 100 * shift))

    with widgets.compare(deaf, sliders={"shift": (0, 2, 1, 0)}, delay=0) as live:
        shown = []
        live.image.observe(lambda change: shown.append(colour(live)), names="value")
        live.controls["shift"].value = 1
        assert going.wait(5)
        live.controls["shift"].value = 2
        finish.set()
        assert live.wait(5) and shown == [(0, 0, 200)]
        live.controls["shift"].value = 1
        assert live.wait(5) and shown[-1] == (0, 0, 100) and live.drawings == 3


def test_error_is_shown_and_the_next_value_works():
    """An exception in a thread is easily lost; here it stands in the widget until the next good value."""
    def fragile(seed, cancelled):
        if seed == 1:
            raise ValueError("no <seed> 1")
        return Image.new("RGB", (16, 16))

    with widgets.compare(fragile, seeds=[0, 1], delay=0) as live:
        live.controls["seed"].value = "1"
        assert live.wait(5)
        assert live.state == "ValueError: no <seed> 1" and isinstance(live.error, ValueError)
        assert "no &lt;seed&gt; 1" in live.status.value and "fragile" in live.status.value
        assert "color:#B00020" in live.status.value
        live.controls["seed"].value = "0"
        assert live.wait(5) and live.error is None and live.state.startswith("seed=0 · ")


def test_error_in_the_first_picture_stops_the_notebook():
    """A notebook run without a reader must fail where the picture failed, not end with a red line."""
    def broken(on, cancelled):
        raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError, match="broken"):
        widgets.compare(broken, toggles={"on": True})
    with pytest.raises(ValueError, match="distinct names"):
        widgets.compare(broken)


def test_pipeline_is_stopped_between_denoising_steps():
    """The callback stops a real pipeline at its next step, reports each step, and changes nothing else."""
    pipe = tiny_pipelines.sd()

    def draw(cancelled):
        torch.manual_seed(0)
        return pipe("a cat", num_inference_steps=4, output_type="np",
                    callback_on_step_end=widgets.cancel_callback(cancelled)).images

    steps = []
    undisturbed = draw(worker.Cancellation(lambda step, of: steps.append((step, of))))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    torch.manual_seed(0)
    assert (undisturbed == pipe("a cat", num_inference_steps=4, output_type="np").images).all()

    steps.clear()
    cancelled = worker.Cancellation(lambda step, of: (steps.append(step), step == 2 and cancelled.cancel()))
    with pytest.raises(widgets.Cancelled, match="step 3"):
        draw(cancelled)
    assert steps == [1, 2]
    assert len(draw(lambda: False)) == 1  # any function that answers will do


def test_state_tells_the_step():
    """A reader who waits for 25 steps wants to see them go by."""
    texts = []

    def stepping(on, cancelled):
        cancelled.report(7, 25)
        return Image.new("RGB", (16, 16))

    with widgets.compare(stepping, toggles={"on": True}, threaded=False) as live:
        live.status.observe(lambda change: texts.append(live.state), names="value")
        live.controls["on"].value = False
    assert texts[:2] == ["drawing…", "drawing… step 7/25"] and texts[2].startswith("on=False · ")


def test_two_widgets_never_draw_at_the_same_time():
    """They share one model, whose attention hooks would meet."""
    inside, most = [], []

    def busy(seed, cancelled):
        inside.append(seed)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return Image.new("RGB", (16, 16))

    lives = [widgets.compare(busy, seeds=[0, 1, 2], delay=0) for _ in range(2)]
    for seed in ("1", "2", "0", "1"):
        for live in lives:
            live.controls["seed"].value = seed
        time.sleep(0.01)
    assert all(live.wait(5) for live in lives)
    for live in lives:
        live.close()
    assert max(most) == 1


def test_worker_steps_aside_for_a_cell_and_goes_on_after_it():
    """A cell that uses the model while a widget draws with it would get hooks it never asked for."""
    drawing, stopped = threading.Event(), []

    def slow(seed, cancelled):
        if seed == 1 and not stopped:
            drawing.set()
            while not cancelled():
                time.sleep(0.005)
            stopped.append(time.monotonic())
            raise widgets.Cancelled
        return Image.new("RGB", (16, 16))

    with widgets.compare(slow, seeds=[0, 1, 2], delay=0) as live:
        live.controls["seed"].value = "1"
        assert drawing.wait(5)
        worker.before_cell()
        try:
            assert stopped and stopped[0] <= time.monotonic() and not live._newest.alive
            live.controls["seed"].value = "2"
            live.controls["seed"].value = "1"
            assert live.state == "waits for the running cell" and not live._newest.alive
        finally:
            worker.after_cell()
        assert live.wait(5) and live.state.startswith("seed=1 · ")


def test_waiting_inside_a_cell_draws_there():
    """A notebook executed without a reader sets a value, waits, and has the picture before its cell ends."""
    with widgets.compare(paint, toggles={"share_attention": True}) as live:
        worker.before_cell()
        try:
            live.controls["share_attention"].value = False
            assert live.wait(5) and colour(live) == (0, 0, 200)
        finally:
            worker.after_cell()


def test_close_cancels_and_later_changes_do_nothing():
    """Closing while it draws must neither hang nor draw on a widget that is gone."""
    drawing = threading.Event()

    def slow(seed, cancelled):
        if seed:
            drawing.set()
            while not cancelled():
                time.sleep(0.005)
            raise widgets.Cancelled
        return Image.new("RGB", (16, 16))

    live = widgets.compare(slow, seeds=[0, 1], delay=0)
    live.controls["seed"].value = "1"
    assert drawing.wait(5)
    live.close()
    assert not live._newest.alive
    live.controls["seed"].value = "0"
    assert not live._newest.alive and live.error is None


def test_pixel_picker_answers_the_chosen_pixel():
    """x and y must be the picture's own, whatever its size on the page, and stay inside it."""
    asked = []

    def answer(x, y):
        asked.append((x, y))
        return Image.new("RGB", (16, 16), (x, y, 0))

    with widgets.pixel_picker(Image.new("RGB", (40, 20)), answer, threaded=False) as live:
        assert asked == [(20, 10)] and live.state.startswith("x=20 y=10 · ")
        live.pixels.pixel = [39, 0]
        live.pixels.pixel = [99, -5]
        assert asked == [(20, 10), (39, 0)]
        live.pixels.pixel = [0, 19]
        assert asked[-1] == (0, 19) and live.state.startswith("x=0 y=19 · ")


def test_static_grid_shows_every_state():
    """Readers without a kernel see all states, each under its name."""
    states = widgets.all_states(["share_attention"])
    assert states == [{"share_attention": False}, {"share_attention": True}]
    assert len(widgets.all_states(["a", "b", "c"])) == 8
    axes = widgets.static_grid(paint, states, seed=0).axes
    assert [ax.images[0].get_array()[0, 0].tolist() for ax in axes] == [[0, 0, 200], [200, 0, 0]]
    titles = [ax.get_title().replace("\n", " ") for ax in axes]
    assert titles == ["share_attention = False", "share_attention = True"]
    named = {"off": states[0], "on": states[1]}
    sets = widgets.static_grid(lambda **values: [paint(**values)] * 3, named, titles=["a", "b", "c"])
    assert len(sets.axes) == 6 and sets.axes[3].get_ylabel() == "on"


def test_executed_notebook_does_not_hang_and_keeps_the_picture():
    """No front end answers here: the run must end at once, with a picture for readers."""
    cells = [
        "from PIL import Image\nfrom studylib.showing import widgets\n"
        "def paint(on, cancelled):\n    return [Image.effect_noise((256, 256), 90 if on else 10)] * 4\n"
        "live = widgets.compare(paint, toggles={'on': True})\nlive",
        "live.controls['on'].value = False\nprint(live.state)\nlive.wait()\nprint(live.state[:10])",
        "black = Image.new('RGB', (64, 64))\n"
        "picker = widgets.pixel_picker(black, lambda x, y: black)\npicker",
        "picker.pixels.pixel = [3, 4]",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    start = time.monotonic()
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert time.monotonic() - start < 30
    shown, printed, picked, _ = (cell.outputs for cell in notebook.cells)
    kept, live = (output.data for output in shown)
    assert Image.open(io.BytesIO(base64.b64decode(kept["image/jpeg"]))).size == (4 * 256 + 12, 256)
    assert "application/vnd.jupyter.widget-view+json" in live and kept["text/plain"] == live["text/plain"] == "on=True"
    assert printed[0].text == "waits for the running cell\non=False ·\n"
    assert picked[0].data["text/plain"] == "x=32 y=32"
