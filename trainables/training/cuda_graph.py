"""Steps on a GPU: the host draws their inputs ahead, and their kernels are replayed as one CUDA graph.

Launched one by one, the kernels of a small model's step keep the host busy for longer than the device. So the first
steps of a kind are launched, the next is captured, and every later one is one copy, from pinned memory that a thread
has filled meanwhile, and one replay. A graph fixes every address and every number that the host knows: values that
change from step to step come through `StepNoise.get_or_draw`, and learned values stay at their address. If a step
cannot be captured (several ranks, a masking rate that changes, or CUDA refuses), its kernels are launched one by one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from trainables.noise import StepNoise

LAUNCHED = 3  # steps of a kind before one is captured: in these, libraries choose algorithms and take workspaces
AHEAD = 2  # steps that are drawn while one runs
SLOTS = AHEAD + 2  # also the step that runs, and the one whose copy may not have ended
ALIGNED = 64  # bytes

Capture = Callable[[Callable[[], None]], Callable[[], object]]


class Inputs:
    """Device memory for the inputs of one kind of step, filled by one copy.

    noise: of a step of that kind that was taken, and so knows what it was asked for. given: by name, on the device.
    """

    def __init__(self, noise: StepNoise, device: torch.device) -> None:
        self.draws = dict(noise.draws)
        first = {name: np.asarray(draw(noise)) for name, draw in self.draws.items()}
        ends = np.cumsum([-(-array.nbytes // ALIGNED) * ALIGNED for array in first.values()]).tolist()
        places = dict(zip(first, [0, *ends], strict=False))
        self.whole = torch.empty(ends[-1], dtype=torch.uint8, device=device)
        self.pinned = [torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda") for _ in range(SLOTS)]
        self.copied = [torch.cuda.Event() if device.type == "cuda" else None for _ in range(SLOTS)]

        def part(whole: torch.Tensor, name: str) -> torch.Tensor:
            array, begin = first[name], places[name]
            kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
            return whole[begin : begin + array.nbytes].view(kind).view(array.shape)

        self.given = {name: part(self.whole, name) for name in first}
        self.hosts = [{name: part(pinned, name).numpy() for name in first} for pinned in self.pinned]

    def draw(self, noise: StepNoise) -> None:
        """Draw a step's inputs into pinned memory, once the last copy from there has ended."""
        slot = noise.step % SLOTS
        if event := self.copied[slot]:
            event.synchronize()
        for name, draw in self.draws.items():
            self.hosts[slot][name][...] = draw(noise)

    def copy(self, step: int) -> None:
        """Queue the copy of a step's inputs to the device."""
        slot = step % SLOTS
        self.whole.copy_(self.pinned[slot], non_blocking=True)
        if event := self.copied[slot]:
            event.record()


class Steps:
    """Takes steps by number, replaying graphs where it can.

    Args:
        train_step: takes a step, given its noise: the device's part of it and no more.
        noise: of a step, by its number.
        seed: of torch's generator in a step, by its number.
        kind: of a step, by its number. Steps of one kind ask for the same draws and launch the same kernels.
        device: where they run.
        capture: turns a call into its replay; None launches every step.
    """

    def __init__(
        self,
        train_step: Callable[[StepNoise], None],
        noise: Callable[[int], StepNoise],
        seed: Callable[[int], int],
        kind: Callable[[int], Hashable],
        device: str,
        capture: Capture | None,
    ) -> None:
        self.train_step, self.noise, self.seed, self.kind = train_step, noise, seed, kind
        self.device, self.capture = torch.device(device), capture
        self.inputs: dict[Hashable, Inputs] = {}
        self.graphs: dict[Hashable, Callable[[], object]] = {}
        self.launched = Counter[Hashable]()
        self.thread = ThreadPoolExecutor(1, "draws")
        self.ahead: dict[int, Future[None]] = {}

    def __call__(self, step: int) -> None:
        torch.manual_seed(self.seed(step))
        kind, noise = self.kind(step), self.noise(step)
        if kind in self.inputs:
            self._give(step, noise)
        if self.capture and kind not in self.graphs and self.launched[kind] >= LAUNCHED:
            self._capture(self.capture, kind, noise)
        if kind in self.graphs:
            self.graphs[kind]()
            return
        self.train_step(noise)
        self.launched[kind] += 1
        if kind not in self.inputs:
            self.inputs[kind] = Inputs(noise, self.device)

    def _give(self, step: int, noise: StepNoise) -> None:
        """Put the step's inputs on the device, and start to draw those of the next steps."""
        inputs = self.inputs[self.kind(step)]
        drawn = self.ahead.pop(step, None) or self.thread.submit(inputs.draw, noise)
        drawn.result()
        inputs.copy(step)
        noise.given = inputs.given
        self.ahead = {later: future for later, future in self.ahead.items() if step < later <= step + AHEAD}
        for later in range(step + 1, step + 1 + AHEAD):
            if later not in self.ahead and (inputs := self.inputs.get(self.kind(later))):
                self.ahead[later] = self.thread.submit(inputs.draw, self.noise(later))

    def _capture(self, capture: Capture, kind: Hashable, noise: StepNoise) -> None:
        try:
            self.graphs[kind] = capture(lambda: self.train_step(noise))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            print(f"steps are launched kernel by kernel: CUDA could not capture one ({reason})", file=sys.stderr)
            self.capture = None


def cuda_graph(call: Callable[[], None]) -> Callable[[], object]:
    """Capture what a call launches on the current stream, which must not be the default one. Returns the replay."""
    graph = torch.cuda.CUDAGraph()
    # Only this thread's calls may break the capture: the other thread waits for copies meanwhile.
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
        call()
    return graph.replay


def own_stream(device: str) -> None:
    """Give this thread a stream of its own on a GPU, one that can be captured."""
    if torch.device(device).type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))
