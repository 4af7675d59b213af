"""Measurements on a trained model besides its mAP: fewer faces, ruined frames, weights, attention, answers.

A probe is a function of a trained model and the split of its run. It returns a table, which is kept in the run's folder
so that it is computed once. Persons are given by their class, the position in ``Split.persons``.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from joblib import delayed
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from famf_lib.data.clipset import ClipSet, Modality
from famf_lib.data.opening import opened
from famf_lib.data.sampling import EVALUATION, Sampler, generator
from famf_lib.data.splits import Split
from famf_lib.data.traits import traits
from famf_lib.experiments.run_store import (
    Run,
    RunSpec,
    can_parallelise,
    cores,
    get_or_train,
    in_parallel,
    threads,
)
from famf_lib.models.famf import FAMF
from famf_lib.support.files import written_whole
from famf_lib.support.fingerprint import source_fingerprint
from famf_lib.support.progress import progress
from famf_lib.support.untrusted import check_parquet
from famf_lib.support.wording import plain
from famf_lib.training.evaluation import EVALUATION_BATCH, EvaluationConfig, evaluate, logits_of

FACES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
RUINED = (0.0, 0.25, 0.5, 0.75, 0.9)
POOREST = 0.1  # the share of the training faces, poorest first, that replace ruined frames
FIFTHS = 5
RUIN = 7  # the random stream that chooses which frames are ruined

COLUMNS = {
    "faces": ("faces", "person", "ap"),
    "ruined": ("kind", "share", "person", "ap"),
    "missing": ("missing", "person", "ap"),
    "weights": ("person", "faces", "rho", "trait", *(f"fifth {n}" for n in range(1, FIFTHS + 1))),
    "attention": ("person", "row", "column", "weight"),
    "answers": ("person", "confidence", "right", "trained"),
}
"""The columns of each probe's table; those of ``TEXTS`` hold text, the others numbers."""
TEXTS = ("kind", "missing", "trait", "row", "column")

Probe = Callable[[FAMF, RunSpec, ClipSet, Split], pd.DataFrame]


def faces(model: FAMF, spec: RunSpec, clipset: ClipSet, split: Split) -> pd.DataFrame:
    """AP by the number of faces at test time. Columns: faces, person, ap."""
    tables = [_ap(model, spec, clipset, split, faces=n).assign(faces=n) for n in FACES]
    return pd.concat(tables, ignore_index=True)[[*COLUMNS["faces"]]]


def ruined(model: FAMF, spec: RunSpec, clipset: ClipSet, split: Split) -> pd.DataFrame:
    """AP when a share of the faces of every ranked clip is replaced. Columns: kind, share, person, ap.

    ``poor``: by one of the poorest tenth of the training faces, of any person; ``stranger``: by any training face of
    another person. All models of a seed lose the same faces, and a larger share includes those of a smaller one.
    """
    rows = _faces_of(clipset, split.gallery)
    rng = np.random.default_rng([spec.seed, RUIN])
    rank = rng.random(len(rows))
    pools = {kind: _replacements(clipset, split, rows, kind, rng) for kind in ("poor", "stranger")}
    tables = []
    for kind, replacement in pools.items():
        for share in RUINED:
            hit = rank < share
            faces = clipset.faces.clone()
            faces[torch.from_numpy(rows[hit])] = clipset.faces[torch.from_numpy(replacement[hit])]
            tables.append(_ap(model, spec, replace(clipset, faces=faces), split).assign(kind=kind, share=share))
    return pd.concat(tables, ignore_index=True)[[*COLUMNS["ruined"]]]


def missing(model: FAMF, spec: RunSpec, clipset: ClipSet, split: Split) -> pd.DataFrame:
    """AP when every ranked clip lacks a modality. Columns: missing ("" for none, "all" for all), person, ap."""
    tables = []
    for name in ("", *model.config.modalities, "all"):
        taken = model.config.modalities if name == "all" else (name,)
        left = {
            m: Modality(given.vectors, torch.zeros_like(given.present)) if m in taken else given
            for m, given in clipset.modalities.items()
        }
        tables.append(_ap(model, spec, replace(clipset, modalities=left), split).assign(missing=name))
    return pd.concat(tables, ignore_index=True)[[*COLUMNS["missing"]]]


def weights(model: FAMF, spec: RunSpec, clipset: ClipSet, split: Split) -> pd.DataFrame:
    """The relation of a face's weight (Fig. 3) to its traits, over all faces of the ranked clips of known persons.

    Columns: person, trait, faces, rho (Spearman's rank correlation over the person's faces, NaN where either is
    constant), and fifth 1 … fifth 5, the mean weight of the person's faces in each fifth of all faces by the trait
    (NaN where the person has none in it).
    """
    clips = split.gallery[split.gallery_classes >= 0]
    rows = _faces_of(clipset, clips)
    counts = clipset.counts[clips].numpy()
    person = np.repeat(split.gallery_classes[split.gallery_classes >= 0].numpy(), counts)
    weight = face_weights(model, clipset, rows)
    tables = []
    for trait, value in traits(clipset).iloc[rows].items():
        known = value.notna().to_numpy()
        table = pd.DataFrame({"person": person[known], "value": value[known].to_numpy(), "weight": weight[known]})
        fifth = np.ceil(FIFTHS * rankdata(table["value"]) / max(len(table), 1)).astype(int).clip(1, FIFTHS)
        by_person = table.groupby("person")
        one = by_person.size().rename("faces").to_frame()
        one["rho"] = by_person[["value", "weight"]].apply(lambda t: _rank_correlation(t["value"], t["weight"]))
        means = table["weight"].groupby([table["person"], fifth]).mean().unstack()
        for n in range(1, FIFTHS + 1):
            one[f"fifth {n}"] = means[n] if n in means else np.nan
        tables.append(one.reset_index().assign(trait=trait))
    return pd.concat(tables, ignore_index=True)


def attention(model: FAMF, spec: RunSpec, clipset: ClipSet, split: Split) -> pd.DataFrame:
    """The attention matrix of the fusion over the ranked clips that have every modality (Fig. 4).

    Columns: person (-1 for noise clips), row, column (token names), weight (the mean over the person's clips). Clusters
    of the face keep their number, which is not comparable between runs.
    """
    names = model.token_names
    total = torch.zeros(len(split.persons) + 1, len(names), len(names), dtype=torch.float64)
    number = torch.zeros(len(split.persons) + 1)
    sampler = Sampler(clipset, split.gallery, spec.evaluation.faces, model.config.modalities)
    drawn = sampler.draw(generator(clipset.faces.device, spec.seed, EVALUATION))
    with torch.inference_mode():
        for rows in torch.arange(len(split.gallery)).split(EVALUATION_BATCH):
            batch = sampler.batch(drawn, rows)
            whole = sampler.has_face[rows].cpu()
            for present in batch.present.values():
                whole &= present.cpu()
            who = split.gallery_classes[rows][whole] % len(total)  # -1, the noise clips, is the last row
            total.index_add_(0, who, model.attention(batch).cpu().double()[whole])
            number.index_add_(0, who, torch.ones(len(who)))
    seen = torch.nonzero(number).flatten().tolist()
    index = pd.MultiIndex.from_product([seen, names, names], names=["person", "row", "column"])
    mean = (total[seen] / number[seen][:, None, None]).flatten().numpy()
    table = pd.DataFrame({"weight": mean}, index=index).reset_index()
    table["person"] = table["person"].where(table["person"] < len(split.persons), -1)
    return table


@torch.inference_mode()
def answers(model: FAMF, spec: RunSpec, clipset: ClipSet, split: Split) -> pd.DataFrame:
    """The model's answer to every ranked clip.

    Columns: person (-1 for a noise clip), confidence (the largest probability), right, trained (number of training
    clips of the person; 0 for a noise clip).
    """
    confidence, answer = torch.empty(len(split.gallery)), torch.empty(len(split.gallery), dtype=torch.int64)
    for rows, logits in logits_of(model, spec.evaluation.faces, clipset, split.gallery, spec.seed):
        best = logits.softmax(dim=1).max(dim=1)
        confidence[rows.cpu()], answer[rows.cpu()] = best.values.cpu(), best.indices.cpu()
    person = split.gallery_classes
    trained = torch.bincount(split.train_classes, minlength=len(split.persons))
    return pd.DataFrame(
        {
            "person": person.numpy(),
            "confidence": confidence.numpy(),
            "right": (answer == person).numpy(),
            "trained": torch.where(person >= 0, trained[person], 0).numpy(),
        }
    )


PROBES: dict[str, Probe] = {p.__name__: p for p in (faces, ruined, missing, weights, attention, answers)}


@torch.inference_mode()
def face_weights(model: FAMF, clipset: ClipSet, rows: np.ndarray) -> np.ndarray:
    """The weight of each of these faces, Σ_k α_k(x) φ(c_k), which does not depend on the clip's other faces."""
    found = []
    for part in torch.from_numpy(rows).split(65_536):
        x = clipset.faces[part.to(clipset.faces.device)].float()
        found.append(model.aggregation.face_weights(model.scaled(x)[None])[0].cpu())
    return torch.cat(found).numpy() if found else np.empty(0, dtype=np.float32)


def _rank_correlation(a: pd.Series, b: pd.Series) -> float:
    """Spearman's rank correlation; NaN, without a warning, if one of them is constant."""
    return float(spearmanr(a, b).statistic) if a.nunique() > 1 and b.nunique() > 1 else float("nan")


def _ap(model: FAMF, spec: RunSpec, clipset: ClipSet, split: Split, faces: int | None = None) -> pd.DataFrame:
    evaluation = EvaluationConfig(**(spec.evaluation.model_dump() | ({"faces": faces} if faces else {})))
    ap = evaluate(model, evaluation, clipset, split, spec.seed).ap
    return pd.DataFrame({"person": np.arange(len(ap)), "ap": ap.numpy()})


def _faces_of(clipset: ClipSet, clips: Int64[Tensor, " G"]) -> Int64[np.ndarray, " F"]:
    """The positions of the clips' faces among all faces, clip by clip."""
    offsets, counts = clipset.offsets.cpu(), clipset.counts.cpu()[clips.cpu()]
    first = torch.repeat_interleave(offsets[clips.cpu()] - (counts.cumsum(0) - counts), counts)
    return (first + torch.arange(len(first))).numpy()


def _replacements(
    clipset: ClipSet, split: Split, rows: Int64[np.ndarray, " F"], kind: str, rng: np.random.Generator
) -> Int64[np.ndarray, " F"]:
    """For each face the position of a training face to replace it with."""
    pool = _faces_of(clipset, split.train)
    if kind == "poor":
        quality = traits(clipset)["quality"].to_numpy()[pool]
        return rng.choice(pool[quality <= np.nanquantile(quality, POOREST)], len(rows))
    of_face = np.repeat(clipset.labels.cpu().numpy(), clipset.counts.cpu().numpy())
    chosen = rng.choice(pool, len(rows))
    while (same := of_face[chosen] == of_face[rows]).any():
        chosen[same] = rng.choice(pool, int(same.sum()))
    return chosen


# --- computed once ---------------------------------------------------------------------------------------------------


@cache
def _code() -> str:
    return source_fingerprint("famf_lib.experiments.probes", "famf_lib.data.traits")[:16]


def _place(run: Run, name: str, clipset: ClipSet) -> Path:
    # The run's key does not cover traits: the fingerprint of the data leaves out the columns of faces.
    decided = hashlib.sha256(f"{_code()}{clipset.checksums}".encode()).hexdigest()[:16]
    return run.folder / f"{name}-{decided}.parquet"


def _stored(run: Run, name: str, clipset: ClipSet) -> pd.DataFrame | None:
    """The table of a probe from the run's folder; None if it is not there."""
    there = run.folder is not None and (file := _place(run, name, clipset)).exists()
    return _read(file, name) if there else None


def _read(file: Path, name: str) -> pd.DataFrame:
    """The table of a probe in a file.

    Raises:
        ValueError: it is damaged.
    """
    try:
        check_parquet(file)
        table = pd.read_parquet(file)
        if missing := set(COLUMNS.get(name, ("person",))) - set(table):
            raise ValueError(f"no column {min(missing)!r}")
        if wrong := [c for c in table if (c in TEXTS) == pd.api.types.is_numeric_dtype(table[c])]:
            raise ValueError(f"{wrong[0]} holds {table[wrong[0]].dtype}")
    except Exception as error:  # of many kinds
        found = f"{file}: damaged answers of a probe found ({plain(error, 300)}), expected them as they were saved"
        raise ValueError(f"{found}; remove the file to compute them again") from error
    return table


def ask(run: Run, name: str, clipset: ClipSet) -> pd.DataFrame:
    """The table of a probe for a run: read from the run's folder, or computed now.

    Raises:
        ValueError: the run was recorded on another machine, so its model is not here; or its answers are damaged.
    """
    if (table := _stored(run, name, clipset)) is not None:
        return table
    table = PROBES[name](run.model(clipset), run.spec, clipset, run.split(clipset))
    with written_whole(file := _place(run, name, clipset)) as new:
        table.to_parquet(new, index=False)
    return _read(file, name)


def ask_all(
    runs: Sequence[Run], names: Sequence[str], clipset: ClipSet, device: torch.device, label: str
) -> dict[str, list[pd.DataFrame]]:
    """The tables of all runs by probe. On a CPU missing ones are computed in parallel, as runs are trained.

    Raises:
        ValueError: as ``ask``, before anything is computed.
    """
    tables = {(run.key, name): _stored(run, name, clipset) for name in names for run in runs}
    asked = {(run.key, name): run for name in names for run in runs if tables[run.key, name] is None}
    if asked:
        workers = min(len(asked), cores()) if can_parallelise((run.spec for run in runs), clipset, device) else 1
        if workers == 1:
            moved = clipset.to(device)
            tasks = [delayed(ask)(run, name, moved) for (_, name), run in asked.items()]
        else:
            tasks = [delayed(_worker)(run.spec, name, clipset.folder, device.type) for (_, name), run in asked.items()]
        with progress(label, len(asked)) as bar:
            for done in in_parallel(tasks, workers):
                bar.to(done)
        tables |= {(key, name): _stored(run, name, clipset) for (key, name), run in asked.items()}
    return {name: [tables[run.key, name] for run in runs] for name in names}


def _worker(spec: RunSpec, name: str, folder: Path, device: str) -> None:
    clipset, place = opened(folder), torch.device(device)
    with threads(1 if place.type == "cpu" else None):
        ask(get_or_train(spec, clipset, place), name, clipset)
