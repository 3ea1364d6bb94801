"""Writes the comparison of two runs as one HTML page that needs nothing else."""

from html import escape

from studylib.errors import StudyError
from studylib.evidence.card import load_card
from studylib.evidence.verdicts import badge
from studylib.reports.compare import (
    ABSENT,
    Comparison,
    Difference,
    Pair,
    difference,
    figure_pairs,
    notebook_pairs,
    present,
    ratio,
    short,
)
from studylib.running.records import ClaimFound, Record
from studylib.showing.listing import shown

# no scripts and nothing from elsewhere, even if something slipped through the escaping
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ground: #f6f6f4; --card: #fff; --ink: #222; --soft: #6a6a6a; --line: #e2e2de;
  --a: #0072b2; --b: #b0460a; }
@media (prefers-color-scheme: dark) { :root { --ground: #17181a; --card: #212326; --ink: #e8e8e6; --soft: #a2a2a0;
  --line: #37393d; --a: #56b4e9; --b: #f0a05a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main, header { max-width: 1280px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 28px; }
h1 { font-size: 22px; margin: 0 0 14px; }
h2 { font-size: 16px; margin: 30px 0 10px; }
h2 small, .soft, figcaption, summary { color: var(--soft); font-weight: normal; font-size: 13px; }
.a { color: var(--a); } .b { color: var(--b); }
.runs, .pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 14px; }
.run, .pictures, .rows { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.run { padding: 10px 16px; border-top: 3px solid currentColor; }
.run p { margin: 0; color: var(--ink); } .run .soft { color: var(--soft); }
.run b, code { font-family: ui-monospace, monospace; font-size: 14px; overflow-wrap: anywhere; }
.rows { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 6px 14px; text-align: left; border-top: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
thead th { border-top: 0; font-size: 13px; }
tbody th { font-weight: normal; width: 32%; }
.number, .metrics th:nth-child(n+2):nth-child(-n+5) { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.bar { width: 130px; } .bar span { display: flex; height: 9px; margin-top: 6px; border-radius: 2px;
  background: linear-gradient(var(--line), var(--line)) center / 1px 100% no-repeat; }
.bar i { background: currentColor; border-radius: 2px; opacity: .8; }
.pictures { padding: 12px 16px; margin-bottom: 12px; }
.pictures p { margin: 0 0 8px; overflow-wrap: anywhere; }
figure { margin: 0; } figcaption { margin-bottom: 3px; }
img { max-width: 100%; display: block; border-radius: 4px; background: #fff; }
details { margin-top: 10px; } summary { cursor: pointer; }
label { font-size: 13px; margin-right: 14px; cursor: pointer; }
#stacked:checked ~ section .pair { grid-template-columns: minmax(0, 1fr); }
@media (max-width: 640px) { .runs, .pair { grid-template-columns: minmax(0, 1fr); } }
"""
LAYOUT = (
    '<input type="radio" name="layout" id="beside" checked><label for="beside">pictures side by side</label>'
    '<input type="radio" name="layout" id="stacked"><label for="stacked">one below the other</label>'
)


def comparison_page(found: Comparison) -> str:
    """Return the page: what differs, then the pictures side by side. All text in it is escaped."""
    a, b = found.a, found.b
    figures = figure_pairs(a.folder, b.folder)
    pictures = notebook_pairs(a.folder, b.folder)
    title = escape(f"{a.slug} {short(a)} and {short(b)}" if a.slug == b.slug else f"{short(a)} and {short(b)}")
    equal = [name for name in a.params if name in b.params and name not in {row.name for row in found.params}]
    kept = ", ".join(f"{name}={shown(a.params[name])}" for name in equal)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><header><h1>{title}</h1>"
        f'<div class="runs">{_run("a", a)}{_run("b", b)}</div></header>\n<main>'
        + _section("Parameters that differ", _plain_table("parameter", found.params, found))
        + (f"<details><summary>{len(equal)} are equal</summary><code>{escape(kept)}</code></details>" if equal else "")
        + (_section("Also different", _plain_table("", found.about, found)) if found.about else "")
        + _section("Metrics that differ", _metric_table(found), _count(found.metrics, [*a.metrics, *b.metrics]))
        + _section("Verdicts that differ", _claim_table(found), _count(found.claims, [*a.claims, *b.claims]))
        + f"<h2>Pictures</h2>{LAYOUT}"
        + _pictures("Recorded figures", figures, found)
        + _pictures("In the notebook", pictures, found)
        + "</main></body></html>\n"
    )


def _run(side: str, record: Record) -> str:
    memory = "" if record.peak_memory_mib is None else f", {record.peak_memory_mib:.0f} MiB"
    facts = f"{shown(record.started_at)} UTC, {record.seconds:.0f} s{memory}, {record.device}"
    return (
        f'<div class="run {side}"><b>{escape(record.slug)}/{escape(record.run_id)}</b>'
        f'<p class="soft">{escape(facts)}</p></div>'
    )


def _section(title: str, content: str, note: str = "") -> str:
    content = content or '<p class="soft">None.</p>'
    return f"<h2>{title} <small>{note}</small></h2>{content}\n"


def _count(rows: list[Difference], names: list[str]) -> str:
    return f"{len(rows)} of {len(set(names))}"


def _table(heads: list[str], rows: list[list[str]], found: Comparison, kind: str = "") -> str:
    """A table whose second and third columns belong to the two runs; cells are HTML already."""
    if not rows:
        return ""
    sides = {1: f'<th class="a">{escape(short(found.a))}</th>', 2: f'<th class="b">{escape(short(found.b))}</th>'}
    head = "".join(sides.get(number, f"<th>{name}</th>") for number, name in enumerate(heads))
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="rows {kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _plain_table(head: str, rows: list[Difference], found: Comparison) -> str:
    cells = [[f"<th>{escape(row.name)}</th>", f"<td>{escape(row.a)}</td>", f"<td>{escape(row.b)}</td>"] for row in rows]
    return _table([head, "", ""], cells, found)


def _metric_table(found: Comparison) -> str:
    cells = []
    for row in found.metrics:
        numbers = [row.a, row.b, difference(row), ratio(row)]
        texts = [shown(present(row.a)), shown(present(row.b))]
        texts += ["" if numbers[2] is None else f"{numbers[2]:+.4g}", "" if numbers[3] is None else f"{numbers[3]:.3f}"]
        cells.append(
            [f"<th>{escape(row.name)}</th>", *(f'<td class="number">{text}</td>' for text in texts), _bar(row)]
        )
    heads = ["metric", "", "", "difference", "ratio", "change, &minus;100 to +100 %"]
    return _table(heads, cells, found, kind="metrics")


def _bar(row: Difference) -> str:
    """The difference as a bar from the middle: full when a number doubles or vanishes."""
    change = difference(row)
    if change is None:
        return "<td></td>"
    size = 50 * min(1.0, abs(change) / max(abs(row.a), 1e-12))
    side, start = ("b", 50.0) if change > 0 else ("a", 50.0 - size)
    style = f"margin-left:{start:.1f}%;width:{size:.1f}%"
    return f'<td class="bar {side}"><span><i style="{style}"></i></span></td>'


def _claim_table(found: Comparison) -> str:
    sentences = _sentences(found.a.slug) | _sentences(found.b.slug)
    cells = []
    for row in found.claims:
        name = f"<th>{escape(sentences.get(row.name, row.name))}<br><code>{escape(row.name)}</code></th>"
        cells.append([name, _claim(row.a), _claim(row.b)])
    return _table(["claim", "", ""], cells, found)


def _claim(claim: ClaimFound | None) -> str:
    if claim is None:
        return f'<td class="soft">{ABSENT}</td>'
    effect = "" if claim.effect is None else f"{claim.effect:+.3g}"
    if claim.interval is not None:
        effect += f" [{claim.interval[0]:+.3g}, {claim.interval[1]:+.3g}]"
    return f'<td>{badge(claim.verdict)}<br><span class="soft">{effect}</span></td>'


def _sentences(slug: str) -> dict[str, str]:
    try:
        return {claim.id: claim.sentence for claim in load_card(slug).claims}
    except StudyError:  # the paper may be gone, its runs are still there
        return {}


def _pictures(title: str, pairs: list[Pair], found: Comparison) -> str:
    changed = [pair for pair in pairs if pair.a != pair.b or pair.a is None]
    equal = [pair for pair in pairs if pair not in changed]
    body = "".join(
        f'<div class="pictures"><p>{_caption(pair)}</p><div class="pair">'
        f"{_picture('a', short(found.a), pair.a)}{_picture('b', short(found.b), pair.b)}</div></div>"
        for pair in changed
    )
    if equal:
        same = "".join(
            f'<div class="pictures"><p>{_caption(pair)}</p><img src="{pair.a}" alt=""></div>' for pair in equal
        )
        body += f"<details><summary>{len(equal)} are the same in both runs</summary>{same}</details>"
    note = f"{len(changed)} of {len(pairs)} differ" if pairs else ""
    return f"<section>{_section(title, body, note)}</section>"


def _caption(pair: Pair) -> str:
    return f"{escape(pair.name)}" + (f' <code class="soft">{escape(pair.note)}</code>' if pair.note else "")


def _picture(side: str, name: str, source: str | None) -> str:
    content = f'<img src="{source}" alt="">' if source else '<p class="soft">no picture here</p>'
    return f'<figure><figcaption class="{side}">{escape(name)}</figcaption>{content}</figure>'
