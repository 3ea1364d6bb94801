"""Runs a paper with its committed parameters again, and says how far the committed numbers came back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from studylib.errors import StudyError
from studylib.evidence.paper import load_results
from studylib.running import runs
from studylib.showing.listing import Listing

CLOCKED = ("(s)", "(MiB)")  # end the names of metrics that no machine gives twice
Outcome = Literal["equal to the bit", "equal within the claims' intervals", "not equal"]


@dataclass(frozen=True)
class Reproduction:
    """The committed results of a paper beside a run of today.

    metrics and claims: rows of name, committed and today's value, those alone that differ. broken: claims whose
    verdict changed or whose effect left the committed interval. machine: what else differs.
    """

    slug: str
    metrics: list[tuple[str, float, float]]
    claims: list[tuple[str, str, str]]
    broken: list[str]
    machine: list[tuple[str, str, str]]

    @property
    def outcome(self) -> Outcome:
        """How far the numbers came back."""
        if self.broken:
            return "not equal"
        return "equal within the claims' intervals" if self.metrics or self.claims else "equal to the bit"

    def show(self) -> None:
        """Print what differs, and the outcome last."""
        heads = ["committed", "today"]
        for what, rows in (("machine", self.machine), ("metric", self.metrics), ("claim", self.claims)):
            if rows:
                Listing([what, *heads], rows).show()
                print()
        print(f"{self.slug}: {self.outcome}" + (f"; changed: {', '.join(self.broken)}" if self.broken else ""))


def reproduce(slug: str, *, timeout: int = 600, force: bool = False, stream: TextIO | None = None) -> Reproduction:
    """Run `slug` with the parameters of its results.json and compare; a finished run of today's code is taken.

    StudyError where nothing is committed, or weights or parameters are no longer those of the committed results.
    """
    committed = load_results(slug)
    if committed is None:
        raise StudyError(f"{slug} has no results.json", f"`study render {slug}` writes it")
    done = runs.run(slug, committed["params"], timeout=timeout, force=force, stream=stream)
    if done.record["weights"] != committed["weights"]:
        raise StudyError(
            f"{slug}: the committed results are of other weights than those here", f"Run `study render {slug}`"
        )
    return compare_with(committed, done.record)


def compare_with(committed: Mapping[str, Any], record: Mapping[str, Any]) -> Reproduction:
    """Compare committed results with a run's record."""
    names = dict.fromkeys([*committed["metrics"], *record["metrics"]])
    metrics = [(name, committed["metrics"].get(name), record["metrics"].get(name)) for name in names]
    claims, broken = [], []
    for id, now in record["claims"].items():
        then = committed["claims"].get(id)
        if then is None or (then["verdict"], then["effect"]) != (now["verdict"], now["effect"]):
            claims.append((id, _worded(then), _worded(now)))
            if not _within(then, now):
                broken.append(id)
    broken += [id for id in committed["claims"] if id not in record["claims"]]
    about = [
        (name, str(committed.get(kind, {}).get(name, "unknown")), str(record.get(kind, {}).get(name, "unknown")))
        for kind in ("hardware", "versions")
        for name in dict.fromkeys([*committed.get(kind, {}), *record.get(kind, {})])
    ]
    return Reproduction(
        record["slug"],
        [row for row in metrics if row[1] != row[2] and not row[0].endswith(CLOCKED)],
        claims,
        broken,
        [row for row in about if row[1] != row[2]],
    )


def _within(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether a claim has its verdict still and its effect, if it has an interval, lies in the committed one."""
    if then is None or then["verdict"] != now["verdict"]:
        return False
    if then["interval"] is None or now["effect"] is None:
        return True
    low, high = then["interval"]
    return low <= now["effect"] <= high


def _worded(claim: Mapping[str, Any] | None) -> str:
    if claim is None:
        return "absent"
    return claim["verdict"] + ("" if claim["effect"] is None else f" {claim['effect']:.6g}")
