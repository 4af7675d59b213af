"""The verdicts of the ledger on pages: a table of claims, datasets and settings, its parts, and a count in words."""

from collections.abc import Sequence
from html import escape

import pandas as pd
from IPython.display import HTML

from famf_book.report import called, is_the_papers
from famf_lib.evidence.claims import Verdict
from famf_lib.evidence.ledger import Entry
from famf_lib.experiments.catalogue import EXPERIMENTS
from famf_lib.experiments.parameters import SETTINGS
from famf_lib.experiments.settings import SHORT

# Each verdict has a sign of its own, so that the table can be read without colour.
SIGNS = {
    Verdict.HOLDS: "●",
    Verdict.DOES_NOT_HOLD: "✕",
    Verdict.CANNOT_TELL: "○",
    Verdict.TOO_EASY: "□",
    Verdict.DEPENDS: "◐",
}
COUNTED = {  # for one claim, and for several
    Verdict.HOLDS: ("holds", "hold"),
    Verdict.DOES_NOT_HOLD: ("does not hold", "do not hold"),
    Verdict.DEPENDS: ("depends on the setting", "depend on the setting"),
    Verdict.CANNOT_TELL: ("cannot be decided", "cannot be decided"),
    Verdict.TOO_EASY: ("meets data that are too easy", "meet data that are too easy"),
}


def table(entries: Sequence[Entry]) -> HTML:
    """One row per claim; for each dataset the verdict, and a sign under each setting that links to the claim's page."""
    datasets = list(dict.fromkeys(entry.dataset for entry in entries))
    cells = {(entry.claim.number, entry.dataset): entry for entry in entries}
    claims = {entry.claim.number: entry.claim for entry in entries}
    head = "".join(
        f'<th colspan="{1 + len(SETTINGS)}">{escape(called(name).replace("`", ""))}</th>' for name in datasets
    )
    names = "".join("<th>verdict</th>" + "".join(f"<th>{SHORT[s]}</th>" for s in SETTINGS) for _ in datasets)
    rows = []
    for number, claim in claims.items():
        row = "".join(_cells(cells.get((number, name))) for name in datasets)
        rows.append(f'<tr><th scope="row">{number}. {escape(claim.short)}</th>{row}</tr>')
    legend = " · ".join(f"{SIGNS[verdict]} {verdict}" for verdict in Verdict)
    return HTML(
        f'<table class="famf-verdicts"><thead><tr><th></th>{head}</tr><tr><th>claim</th>{names}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>\n<p class='famf-legend'>{legend} · — not tested</p>"
    )


def _cells(entry: Entry | None) -> str:
    """The cells of a claim on a dataset: the verdict, then the signs of the settings."""
    if entry is None or entry.verdict is None:
        reason = escape(entry.reason if entry else "not tested", quote=True)
        return f'<td colspan="{1 + len(SETTINGS)}" title="{reason}">—</td>'
    page = f"{EXPERIMENTS[entry.claim.experiment].notebook}.html"
    cells = f'<td class="famf-verdict">{SIGNS[entry.verdict]} {entry.verdict}</td>'
    for setting in SETTINGS:
        outcome = entry.outcomes[setting]
        words = escape(f"{outcome.verdict} {SHORT[setting]}; {outcome.held}".rstrip("; "), quote=True)
        sign = SIGNS.get(outcome.verdict, "—")
        cells += f'<td><a href="{page}" title="{words}" aria-label="{words}">{sign}</a></td>'
    return cells


def parts(entries: Sequence[Entry]) -> pd.DataFrame:
    """One row per part of a claim on a dataset: the effect under the deciding setting and the verdict under each."""
    rows = []
    for entry in (one for one in entries if one.deciding):
        of_setting = {SHORT[name]: {p.case: p.outcome for p in o.parts} for name, o in entry.outcomes.items()}
        for part in entry.deciding.parts:
            measured = {"dataset": entry.dataset, "part": part.case, "effect": part.effect, "paper": part.paper}
            measured |= {"ours": part.ours.mean, "low": part.ours.low, "high": part.ours.high}
            rows.append(measured | {name: outcomes.get(part.case, "—") for name, outcomes in of_setting.items()})
    columns = ["dataset", "part", "effect", "paper", "ours", "low", "high", *SHORT.values()]
    return pd.DataFrame(rows, columns=columns).astype({"paper": float})


def counts(entries: Sequence[Entry]) -> str:
    """One sentence per dataset: how many claims held, failed, or have another verdict."""
    sentences = []
    for dataset in dict.fromkeys(entry.dataset for entry in entries):
        tested = [entry.verdict for entry in entries if entry.dataset == dataset and entry.verdict]
        number = {verdict: tested.count(verdict) for verdict in COUNTED if verdict in tested}
        found = [f"{n} {COUNTED[verdict][n > 1]}" for verdict, n in number.items()]
        if found:
            last = f"{', '.join(found[:-1])} and {found[-1]}" if len(found) > 1 else found[0]
            of = "claim that can be tested" if len(tested) == 1 else "claims that can be tested"
            sentences.append(f"On {called(dataset)}, of the {len(tested)} {of}, {last}.")
    return " ".join(sentences)


def best(entries: Sequence[Entry]) -> str:
    """On which datasets FAMF has a higher mAP than every other combination of Table 1, in a sentence."""
    over = {
        e.dataset: [part.ours.mean > 0 for part in e.deciding.parts]
        for e in entries
        if e.claim.number == "1" and e.deciding
    }
    first = [called(name) for name, higher in over.items() if all(higher)]
    return f"FAMF has the highest mAP of the combinations on {' and on '.join(first) or 'none of our datasets'}."


def sizes(profile: str, seeds: Sequence[int]) -> str:
    """That runs here and recorded ones differ in size, in a sentence; empty in the standard book, where they do not."""
    if profile == "standard" and not seeds:
        return ""
    drawn = f", {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}" if seeds else ""
    return f"(Runs made here have the profile {profile}{drawn}; recorded ones have the profile standard.)"


def reach(names: Sequence[str]) -> str:
    """What verdicts on these datasets say about the paper's data, in a sentence or two."""
    own = [name for name in names if is_the_papers(name)]
    elsewhere = (
        "A claim that does not hold on other data may still be right for the paper's: what we show is that it does not "
        "carry over to them under these settings."
    )
    if not own:
        return f"The paper's own data are not among the datasets. {elsewhere}"
    said = (
        f"On {', '.join(own)} the claims are tested on the paper's own data. The sizes are the paper's in the profile "
        "`paper`; the other profiles are smaller."
    )
    return said if len(own) == len(names) else f"{said} {elsewhere}"
