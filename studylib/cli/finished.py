"""What `study run` says at its end: cost, findings, picture, record, and what to do next."""

from collections.abc import Iterator

from studylib.evidence.card import load_card
from studylib.evidence.verdicts import FAILED, HELD, REVERSED, count_verdicts
from studylib.reports.records import run_folders
from studylib.running.records import ClaimFound, read_run
from studylib.running.runs import Run

MOST = 6  # findings, and metrics, that are shown


def finished(slug: str, done: Run) -> Iterator[str]:
    """Yield the lines, the command to go on with last."""
    record = done.record
    if not done.fresh:
        yield "already run with this code, these weights and parameters; --force runs it again"
    yield f"{slug} {record['run_id']}: {record['seconds']:.1f} s, {record['peak_memory_mib']:.0f} MiB"
    yield f"claims: {count_verdicts(record['claims'])}"
    yield from findings(slug, read_run(done.folder).claims)
    for name, value in list(record["metrics"].items())[:MOST]:
        yield f"  {name} = {value:.4g}"
    if len(record["metrics"]) > MOST:
        yield f"  and {len(record['metrics']) - MOST} more: study results {slug}"
    pictures = sorted((done.folder / "figures").glob("*.webp"))
    if pictures:
        yield f"picture: {pictures[0]}" + (f" and {len(pictures) - 1} more beside it" if len(pictures) > 1 else "")
    yield f"record: {done.folder / 'record.json'}"
    yield f"next: {next_command(slug, record['run_id'])}"


def findings(slug: str, found: dict[str, ClaimFound]) -> Iterator[str]:
    """Yield the paper's claims with a sign that were decided, those that did not hold first."""
    decided = [
        (found[claim.id], claim.sentence)
        for claim in load_card(slug).claims
        if claim.id in found and found[claim.id].interval is not None  # exact ones are tests of the code
    ]
    order = (REVERSED, FAILED, HELD)
    decided = sorted((one for one in decided if one[0].verdict in order), key=lambda one: order.index(one[0].verdict))
    for claim, sentence in decided[:MOST]:
        yield f"  {claim.verdict:8} {claim.effect:+.3g}  {sentence}"
    if len(decided) > MOST:
        yield f"  and {len(decided) - MOST} more: study claims {slug}"


def next_command(slug: str, run_id: str) -> str:
    """The command most useful now: a comparison where there is another run, else a first variation."""
    others = [folder for folder in run_folders(slug) if folder.name != run_id]
    if others:
        newest = max(others, key=lambda folder: folder.stat().st_mtime)
        return f"study compare {newest.name} {run_id}"
    return f"study list {slug} shows what can be changed, -p changes it"
