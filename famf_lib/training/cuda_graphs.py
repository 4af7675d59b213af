"""A function on a GPU that is captured: its kernels are recorded once, and from then on launched all at once.

A training step is 180 operations or so, each a kernel or several, and a host needs microseconds to launch one: a
millisecond or two a step. At the paper's full size the step itself takes 3 ms at the least on an H200, so that a host
that is free runs ahead of the GPU; small models, and a host with other work, are where it does not. A CUDA graph
launches the step in one call and costs next to nothing to make. Compiling the step (``torch.compile``) would fuse its
small kernels as well. But products and the optimiser are nine tenths of the floor, and the rest 0.2 s of a training of
1,200 steps: it would be over before the compiler, which takes tens of seconds, has paid for itself.
``benchmarks/full_size.py`` measures all three where there is a GPU.

What a function must keep to: every tensor that it reads, and that changes, is one of its arguments or stays at its
place; its results go into tensors that stay; numbers of Python that change, such as a learning rate, are tensors; and
it never waits for the GPU. ``tests/training/test_cuda_graphs.py`` checks this for the training step without a GPU.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # plain calls before a capture: libraries choose their kernels, the optimiser makes its state

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a function and gives what does the same again. The function itself is called once, and need not take effect."""


class Captured:
    """Calls a function with tensors, the first times as it is, later as a recording. The numbers are the same.

    Each set of shapes has a recording of its own: equal steps of an epoch have two sizes at most.

    Args:
        function: takes tensors, gives nothing, and keeps to what the module says.
        recorder: makes the recordings.
    """

    def __init__(self, function: Callable[..., None], recorder: Recorder):
        self.function, self.recorder = function, recorder
        self.calls: dict[tuple[torch.Size, ...], int] = {}
        self.recordings: dict[tuple[torch.Size, ...], tuple[tuple[Tensor, ...], Callable[[], None]]] = {}

    def __call__(self, *tensors: Tensor) -> None:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self.recordings:
            self.calls[shapes] = self.calls.get(shapes, 0) + 1
            if self.recorder is None or self.calls[shapes] <= WARM_UP or not self._record(shapes, tensors):
                self.function(*tensors)
                return
        places, replay = self.recordings[shapes]
        for place, tensor in zip(places, tensors, strict=True):
            place.copy_(tensor)
        replay()

    def _record(self, shapes: tuple[torch.Size, ...], tensors: tuple[Tensor, ...]) -> bool:
        places = tuple(tensor.clone() for tensor in tensors)
        try:
            self.recordings[shapes] = places, self.recorder(lambda: self.function(*places))
        except RuntimeError as error:  # too little memory, or a driver that cannot: slower, but no worse
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            warnings.warn(f"a step cannot be captured and is launched kernel by kernel: {reason}", stacklevel=3)
            self.recorder = None
        return shapes in self.recordings


def recorder(device: torch.device) -> Recorder | None:
    """What records functions on a device: a CUDA graph on a GPU; None where nothing is launched."""
    return _CudaGraphs(device) if device.type == "cuda" else None


class _CudaGraphs:
    """CUDA graphs that share their memory, which they may: none reads what another has left there."""

    def __init__(self, device: torch.device):
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):  # waits for the GPU, once a recording
            function()
        return graph.replay
