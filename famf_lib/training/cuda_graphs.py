"""CUDA graphs: the kernels of a function are recorded once and from then on launched in a single call.

A training step runs about 180 operations, each of one kernel or more, which the host launches one by one. At the
paper's full size on an H200 it needs 6 ms for them and the GPU needs 9 ms, so an idle host keeps ahead; a graph helps
smaller models and busy hosts, and costs next to nothing to record. ``torch.compile`` also fuses small kernels: it takes
29 s to compile, and then saves 5 s of the 12 s of a whole training. ``benchmarks/full_size.py`` measures all three.

A function can be recorded if every tensor that it reads and that changes is an argument or keeps its address; if it
writes its results to tensors that keep theirs; if changing Python numbers, such as a learning rate, are tensors; and if
it never waits for the GPU. ``tests/training/test_cuda_graphs.py`` checks this for the training step without a GPU.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # plain calls before recording, in which libraries choose kernels and the optimiser creates its state

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Records a function and returns its replay. It calls the function once, and that call need not have an effect."""


class Captured:
    """A function that is called plainly ``WARM_UP`` times and replayed from a recording afterwards, with equal results.

    There is one recording per combination of argument shapes: the steps of an epoch have at most two sizes.

    Args:
        function: takes tensors, returns nothing, and can be recorded as described above.
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
        inputs, replay = self.recordings[shapes]
        for recorded, tensor in zip(inputs, tensors, strict=True):
            recorded.copy_(tensor)
        replay()

    def _record(self, shapes: tuple[torch.Size, ...], tensors: tuple[Tensor, ...]) -> bool:
        inputs = tuple(tensor.clone() for tensor in tensors)
        try:
            self.recordings[shapes] = inputs, self.recorder(lambda: self.function(*inputs))
        except RuntimeError as error:  # too little memory, or a driver without support: slower, same results
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            warnings.warn(f"a step cannot be recorded and is launched kernel by kernel: {reason}", stacklevel=3)
            self.recorder = None
        return shapes in self.recordings


def recorder(device: torch.device) -> Recorder | None:
    """A recorder of CUDA graphs for a GPU, None for other devices."""
    return _CudaGraphs(device) if device.type == "cuda" else None


class _CudaGraphs:
    """Records CUDA graphs that share their memory; they may, because none reads what another left there."""

    def __init__(self, device: torch.device):
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):  # waits for the GPU once per recording
            function()
        return graph.replay
