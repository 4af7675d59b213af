"""What φ can add to NetVLAD: after Concat the next layer absorbs it, in random and in trained models."""

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import EVALUATION, Batch, Sampler, generator
from famf_lib.experiments.results import Results
from famf_lib.models.aggregation import AttentionVLAD
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training.evaluation import EVALUATION_BATCH

GRADED = ("AttentionVLAD + Concat", "AttentionVLAD + MLMA")


# --- the argument ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def absorbed(model: FAMF) -> FAMF:
    """The same model with NetVLAD instead of AttentionVLAD and φ in the first layer of the classifier, W' = W diag(φ).

    With Concat both models give the same logits. If each cluster and then the whole is normalised, the whole consists
    of K vectors of length φ_k and is divided by |φ| instead of √K, so W' = W diag(φ) √K / |φ|. If only the whole is
    normalised, a factor per clip remains (``clip_scale``). With another fusion the two models differ.

    Raises:
        ValueError: the model has no φ.
    """
    if not isinstance(model.aggregation, AttentionVLAD):
        raise ValueError(f"aggregation: {model.config.aggregation!r} has no φ, expected 'attentionvlad'")
    options = {k: v for k, v in model.config.aggregation_options.items() if k != "attention"}
    config = ModelConfig(**(model.config.model_dump() | {"aggregation": "netvlad", "aggregation_options": options}))
    dims = {m: getattr(layer, "in_features", model.dim) for m, layer in model.projections.items()}
    plain = FAMF(config, model.dim, dims, model.persons).to(next(model.parameters()))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("aggregation.score.")}
    plain.load_state_dict(state)
    factor = _factor(model)
    first = plain.classifier[0].weight  # (H, T·D), the K clusters first
    by_token = first.view(len(first), -1, model.dim)
    by_token[:, : len(factor)] *= factor[:, None]
    return plain.eval()


def _factor(model: FAMF) -> Float[Tensor, " K"]:
    """The factor that the first layer absorbs for each cluster."""
    phi = model.aggregation.cluster_attention()
    whole = model.aggregation.normalisation.endswith("whole")
    return phi * len(phi) ** 0.5 / phi.norm() if whole else phi


@torch.no_grad()
def clip_scale(model: FAMF, batch: Batch) -> Float[Tensor, " B"]:
    """The factor per clip by which the face tokens of ``model`` exceed those that ``absorbed`` accounts for.

    It is 1 unless only the whole is normalised, by a norm that depends on φ and on the clip.
    """
    x, factor = model.scaled(batch.faces), _factor(model)
    graded = model.aggregation(x, batch.mask).flatten(1).norm(dim=1)
    plain = (absorbed(model).aggregation(x, batch.mask) * factor[:, None]).flatten(1).norm(dim=1)
    return torch.where(plain > 0, graded / plain.clamp(min=1e-30), 1.0)


@torch.no_grad()
def identity(
    normalisations: tuple[str, ...] = ("none", "cluster", "cluster+whole", "whole"),
    dim: int = 64,
    clips: int = 199,
    faces: int = 24,
    persons: int = 31,
    dtype: torch.dtype = torch.float32,
) -> pd.DataFrame:
    """The largest differences in a logit between ``absorbed`` and the model, for random weights and clips.

    Differences are relative to the largest logit. Columns: with φ absorbed; with ``clip_scale`` applied as well; with φ
    left out, to show that φ matters for these clips; and the smallest and largest ``clip_scale``.
    """
    rows = {}
    for fusion, normalisation in [("concat", n) for n in normalisations] + [("mlma", normalisations[0])]:
        options = {"normalisation": normalisation}
        config = ModelConfig(
            aggregation_options=options, fusion=fusion, modalities=("audio",), hidden=128, aggregation="attentionvlad"
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = FAMF(config, dim, {"audio": dim // 2}, persons).to(dtype).eval()
            model.aggregation.score.weight *= 20  # spreads φ, which is close to 0.5 initially
            here = torch.ones(clips, dtype=torch.bool)
            sound = {"audio": torch.randn(clips, dim // 2, dtype=dtype)}
            batch = Batch(torch.randn(clips, faces, dim, dtype=dtype), None, sound, {"audio": here})
        plain, left_out = absorbed(model), absorbed(model)
        left_out.classifier[0].weight.copy_(model.classifier[0].weight)
        scale = clip_scale(model, batch)
        tokens = plain.tokens(batch)
        tokens[:, : plain.aggregation.tokens] *= scale[:, None, None]
        logits = model(batch)
        found = (plain(batch), plain.classifier(plain.fusion(tokens).flatten(1)), left_out(batch))
        apart = [float((other - logits).abs().max() / logits.abs().max()) for other in found]
        rows[f"{'Concat' if fusion == 'concat' else 'MLMA'}, {normalisation}"] = (
            *apart,
            float(scale.min()),
            float(scale.max()),
        )
    columns = ["φ absorbed", "with clip factor", "φ left out", "smallest factor", "largest factor"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("fusion, normalisation")


# --- the trained models ----------------------------------------------------------------------------------------------


@torch.no_grad()
def has_short_cluster(model: FAMF, batch: Batch) -> Bool[Tensor, " B"]:
    """Whether some cluster of a clip, but not every one, is shorter than 1 after each cluster was scaled to 1.

    The scaling divides by at least 1e-12, so a cluster to which hardly any face is assigned stays shorter, and one
    whose assignment underflows stays 0. False for a clip without faces, and if clusters are not scaled one by one.
    """
    plain = absorbed(model).aggregation
    if not plain.normalisation.startswith("cluster"):
        return torch.zeros(len(batch.faces), dtype=torch.bool, device=batch.faces.device)
    length = plain(model.scaled(batch.faces), batch.mask).norm(dim=2)  # (B, K); scaling the whole keeps the ratios
    return length.amin(dim=1) < 0.999 * length.amax(dim=1)


@torch.no_grad()
def compare_clips(results: Results, clipset: ClipSet, label: str = GRADED[0]) -> pd.DataFrame:
    """Compares the trained model of each seed with ``absorbed``, clip by clip, on all ranked clips.

    Columns: seed; clip (its position in the ClipSet); short cluster (``has_short_cluster``); difference, the largest of
    a logit, relative to the largest logit of all clips; with clip factor, the same after ``clip_scale`` is applied.
    """
    parts = []
    for seed in results.seeds:
        run = results.runs[label, seed]
        model, clips = run.model(clipset), run.split(clipset).gallery
        plain = absorbed(model)
        sampler = Sampler(clipset, clips, run.spec.evaluation.faces, model.config.modalities)
        drawn = sampler.draw(generator(clipset.faces.device, seed, EVALUATION))
        found = []
        for rows in torch.arange(len(clips), device=drawn.device).split(EVALUATION_BATCH):
            batch = sampler.batch(drawn, rows)
            tokens, logits = plain.tokens(batch), model(batch)
            differences = [(plain(batch) - logits).abs().amax(dim=1)]
            tokens[:, : plain.aggregation.tokens] *= clip_scale(model, batch)[:, None, None]
            differences.append((plain.classifier(plain.fusion(tokens).flatten(1)) - logits).abs().amax(dim=1))
            found.append(torch.stack([has_short_cluster(model, batch), logits.abs().amax(dim=1), *differences]))
        short, largest, left, scaled = torch.cat(found, dim=1).cpu().numpy()  # (G,) each
        columns = {"clip": clips, "short cluster": short > 0, "difference": left, "with clip factor": scaled}
        table = pd.DataFrame(columns).assign(seed=seed)
        table[["difference", "with clip factor"]] /= largest.max()
        parts.append(table)
    return pd.concat(parts, ignore_index=True)
