"""Samples N faces per clip (Sec. 4.3) for all clips at once, with index operations on the device of the faces."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from famf_lib.data.clipset import ClipSet

# Each use of random numbers has its own stream of the seed: another use leaves the others as they were.
FACES, ORDER, START, EVALUATION = range(4)


def generator(device: torch.device, *seeds: int) -> torch.Generator:
    """A random generator seeded by all ``seeds``: with (seed, epoch), a resumed run draws what the first would have."""
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 1_000_003 + int(seed) + 1) % (2**63 - 1)
    return torch.Generator(device).manual_seed(mixed)


def sample_faces(
    offsets: Int64[Tensor, " V_plus_1"],
    clips: Int64[Tensor, " T"],
    n: int,
    generator: torch.Generator,
    total: int | None = None,
) -> Int64[Tensor, "T {n}"]:
    """Draws n faces of each of T clips, as positions in the flat array of all faces.

    A clip with n faces or more gives n different ones, drawn uniformly; a shorter one gives each of its faces
    floor(n / count) or ceil(n / count) times (Sec. 4.3: "sampled repeatedly until the number is equal to N").
    A clip without faces gives zeros, which the caller masks.

    One sort of all faces by (clip, random number) permutes the faces within every clip; a clip takes the first n of its
    permutation, starting over if it is short. ``total``, the number of faces of these clips, avoids a GPU
    synchronisation.
    """
    device = offsets.device
    counts = offsets.diff()[clips]
    starts = counts.cumsum(0) - counts  # first face of clip t among the faces of these clips
    clip_of_face = torch.repeat_interleave(torch.arange(len(clips), device=device), counts, output_size=total)
    # int64 keys: the clip, then 31 random bits. A float key would lose bits with many clips.
    noise = torch.randint(2**31, (len(clip_of_face),), generator=generator, device=device)
    order = torch.argsort((clip_of_face << 31) | noise)
    turn = torch.arange(n, device=device) % counts.clamp(min=1)[:, None]  # (T, n)
    if len(order) == 0:
        return torch.zeros(len(clips), n, dtype=torch.int64, device=device)
    within = order[(starts[:, None] + turn).clamp(max=len(order) - 1)] - starts[:, None]  # position within the clip
    chosen = offsets[clips][:, None] + within
    return torch.where(counts[:, None] > 0, chosen, 0)


@dataclass(frozen=True)
class Batch:
    """The input of the model: B clips with N faces of D numbers, and M clip-level modalities.

    ``mask`` is None if every face counts, which is the common case and the fast one.
    """

    faces: Float[Tensor, "B N D"]
    mask: Bool[Tensor, "B N"] | None
    modalities: dict[str, Float[Tensor, "B _"]]
    present: dict[str, Bool[Tensor, " B"]]


class Sampler:
    """Makes batches of chosen clips of a ClipSet, on the device of the ClipSet."""

    def __init__(self, clipset: ClipSet, clips: Int64[Tensor, " T"], n: int, modalities: tuple[str, ...]):
        device = clipset.faces.device
        self.clipset, self.n = clipset, n
        self.clips = clips.to(device)
        self.modalities = {name: clipset.modalities[name] for name in modalities}
        counts = clipset.counts.to(device)[self.clips]
        self.has_face = counts > 0
        # Computed once, because reading them in each batch would stall a GPU.
        self.all_have_faces, self.faces = bool(self.has_face.all()), int(counts.sum())

    def draw(self, generator: torch.Generator) -> Int64[Tensor, "T n"]:
        """Draws the faces of every clip for one epoch."""
        return sample_faces(self.clipset.offsets, self.clips, self.n, generator, self.faces)

    def batch(self, drawn: Int64[Tensor, "T n"], rows: Int64[Tensor, " B"]) -> Batch:
        """The batch of the clips at ``rows`` (positions in ``clips``) with their ``drawn`` faces, in float32."""
        clips, faces = self.clips[rows], drawn[rows]
        x = self.clipset.faces.index_select(0, faces.flatten()).float().view(*faces.shape, -1)
        mask = None if self.all_have_faces else self.has_face[rows][:, None].expand(-1, self.n)
        return Batch(
            faces=x,
            mask=mask,
            modalities={name: m.vectors.index_select(0, clips).float() for name, m in self.modalities.items()},
            present={name: m.present[clips] for name, m in self.modalities.items()},
        )
