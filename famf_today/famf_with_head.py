"""FAMF with the head of ``heads`` in place of its classifier, or of the classifier's last layer.

The aggregation, the fusion and their training are the library's. So a head's gain can be told apart from an
aggregation's.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import FACES, ORDER, START, Batch, Sampler, generator
from famf_lib.data.splits import Split
from famf_lib.experiments.run_store import RunSpec
from famf_lib.metrics import Scores
from famf_lib.models.famf import FAMF
from famf_lib.training import evaluation
from famf_lib.training.train import CENTRE_SAMPLE, build, learning_rate_factor, steps_of
from famf_today.heads import MarginHead


class FAMFWithHead(nn.Module):
    """Aggregate → fuse → the hidden layers of the classifier → cosines with a margin."""

    def __init__(self, famf: FAMF, margin: float, scale: float):
        super().__init__()
        self.config, self.famf = famf.config, famf
        self.body = famf.classifier[:-1]
        self.head = MarginHead(famf.classifier[-1].in_features, famf.persons, margin, scale, mapped=False)
        famf.classifier = nn.Identity()

    def forward(self, batch: Batch, classes: Int64[Tensor, " B"] | None = None) -> Float[Tensor, "B C"]:
        return self.head(self.body(self.famf(batch)), classes)


def fit(spec: RunSpec, clipset: ClipSet, split: Split, *, margin: float, scale: float) -> FAMFWithHead:
    """Trains it on the clips of the split as ``train.train`` does (faces, order, rates and epochs), in float32."""
    device, seed, training = clipset.faces.device, spec.seed, spec.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        model = FAMFWithHead(build(spec.model, clipset, len(split.persons), seed), margin, scale)
    sampler = Sampler(clipset, split.train, training.faces, spec.model.modalities)
    classes = split.train_classes.to(device)
    draw = generator(device, seed, START)
    faces = sampler.draw(draw)[sampler.has_face].flatten()
    keep = torch.randperm(len(faces), generator=draw, device=device)[:CENTRE_SAMPLE]
    model.famf.initialise(clipset.faces[faces[keep]].float(), seed)
    aggregation = list(model.famf.aggregation.parameters())
    apart = {id(p) for p in aggregation}
    rest = [p for p in model.parameters() if id(p) not in apart]
    groups = [{"params": aggregation, "rate": training.lr_aggregation}, {"params": rest, "rate": training.lr}]
    optimiser = torch.optim.Adam(groups, lr=training.lr, fused=True)
    model.train()
    model.training_shape = min(training.batch_size, len(classes)), training.faces
    for epoch in range(training.epochs):
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * learning_rate_factor(training, epoch)
        drawn = sampler.draw(generator(device, seed, FACES, epoch))
        order = torch.randperm(len(classes), generator=generator(device, seed, ORDER, epoch), device=device)
        for rows in order.tensor_split(steps_of(len(classes), training.batch_size)):
            logits = model(sampler.batch(drawn, rows), classes[rows])
            loss = F.cross_entropy(logits, classes[rows]) + model.famf.fusion.penalty()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def rank(model: FAMFWithHead, spec: RunSpec, clipset: ClipSet, split: Split) -> Scores:
    """mAP at 100 and rank-1 of the gallery, as for every row of the library."""
    return evaluation.evaluate(model, spec.evaluation, clipset, split, spec.seed)
