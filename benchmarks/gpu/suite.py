"""The experiments in the order in which they run: correctness, then the most decisive first."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.gpu.peers import PARTS
from benchmarks.gpu.variants import DAMAGES

__all__ = ["EXPERIMENTS", "PLANS", "STAGES", "TROUBLE", "UNTIMED", "Experiment", "chosen", "planned",
           "seconds_of"]  # fmt: skip

STAGES = ("correctness", "reach and limits", "peak", "tuning", "throughput")
#: stages whose experiments may run concurrently
UNTIMED = STAGES[:2]


@dataclass(frozen=True)
class Experiment:
    """One process.

    Attributes
    ----------
    module
        in ``benchmarks.gpu``, with ``run(bench)`` that yields rows
    stage
        one of `STAGES`
    question
    seconds
        time limit
    part
        of the module's question: a crash or hang affects only this part
    expected
        status it must end with, for those that fail on purpose
    """

    module: str
    stage: str
    question: str
    seconds: int
    part: str = ""
    expected: str = "done"

    @property
    def name(self) -> str:
        return f"{self.module}-{self.part.replace(' ', '_')}" if self.part else self.module

    def matches(self, word: str) -> bool:
        """Return whether a word of ``--only`` selects it: E3, e03, e03_engine, e03_engine-part."""
        word = word.lower()
        short = self.module.split("_")[0]
        return word in (self.name.lower(), self.module, short, re.sub(r"^([a-z])0", r"\1", short))


EXPERIMENTS = (
    Experiment("e00_reach", "correctness", "which decoders are available, in which library", 60),
    Experiment("c1_parity", "correctness", "pixels of decode_jpegs against libjpeg-turbo's", 150),
    Experiment("c2_mixed", "correctness", "JPEG and raw samples mixed: GPU batches against the CPU's", 240),
    Experiment("c3_errors", "correctness", "a bad image affects no other image", 120),
    Experiment("c4_ordering", "correctness", "memory reused while it is still read", 150),
    Experiment("c6_many", "correctness", "hundreds of thousands of images, some of them bad", 180),
    Experiment("c5_tests", "correctness", "pytest -m gpu without skips", 300),
    Experiment("e00_reach", "reach and limits", "other copies of nvJPEG on this machine", 60, "others"),
    Experiment("e01_kinds", "reach and limits", "which kinds each decoder accepts, and its accuracy", 240),
    Experiment("e02_order", "reach and limits", "whether decoders respect the order of their stream", 90),
    *(
        Experiment("e09_errors", "reach and limits", f"a batch with one bad image: {kind}", 40, kind)
        for kind in DAMAGES
    ),
    Experiment("e12_sizes", "reach and limits", "smallest and largest image of each decoder", 90),
    Experiment("e03_engine", "peak", "engines, batched: speed by batch size, format, images", 300),
    Experiment("e04_decoupled", "peak", "engines, one image per call, by threads", 180),
    Experiment("e05_gpu_huffman", "peak", "SMs: speed by batch size, format and states", 240),
    Experiment("e06_both", "tuning", "engines and SMs at once; with a concurrent load", 150),
    Experiment("e07_roi", "tuning", "decoding only a rectangle, or at half the size", 150),
    Experiment("e15_mixture", "tuning", "what different images in a batch cost the engines", 120),
    Experiment("e15_mixture", "tuning", "a state per subsampling", 60, "states"),
    Experiment("e16_reading", "tuning", "the CPU's part: page cache and checksums", 60),
    Experiment("e08_device", "tuning", "compressed bytes already on the GPU", 90),
    Experiment("e10_cores", "tuning", "few CPU cores, spinning waits, a busy interpreter", 90),
    Experiment("e11_memory", "tuning", "allocations in steady state, memory reserved", 120),
    Experiment("e13_kernel", "tuning", "the fused kernel against copy bandwidth", 180),
    Experiment("e14_loader", "tuning", "a training step fed by the loader, and by DALI", 180),
    Experiment("t1_decode", "throughput", "decode_jpegs against bare nvJPEG", 120),
    Experiment("t2_loader", "throughput", "the loader against bare nvJPEG, by files and cores", 300),
    Experiment("e19_share", "throughput", "engines and idle CPU cores at once, by share", 150),
    Experiment("e20_crops", "throughput", "decoding only parts of JPEGs with an index for crops", 120),
    *(
        Experiment("t3_peers", "throughput", f"{part} against ffcv_gpu, on the same images", 90, part)
        for part in PARTS
    ),
    Experiment("t4_training", "throughput", "CIFAR-10 training: accuracy and seconds by seed", 180),
    Experiment("e17_doctor", "throughput", "ffcv-gpu doctor on this machine", 90),
    Experiment("e18_notebook", "throughput", "the notebook about decoding", 120),
)

#: by name: the best use of a few minutes on a GPU, the most valuable experiment first, with the seconds of
#: each in a brief run. "second": what has changed since the last results of an H200, and what they lack.
PLANS = {
    "second": {
        # measured there
        "c2_mixed": 96, "c5_tests": 91, "c6_many": 63, "c4_ordering": 45, "c3_errors": 22, "c1_parity": 12,
        "t2_loader": 28, "e13_kernel": 60, "t3_peers-DALI_pipeline": 22,
        # guesses
        "e14_loader": 50, "t4_training": 60, "t3_peers-DALI_pipeline_on_2_cores": 25, "e11_memory": 30,
        # measured
        "t1_decode": 14,
        # guesses
        "e05_gpu_huffman": 30, "e06_both": 35, "e16_reading": 20, "e07_roi": 30, "e08_device": 20,
        # measured
        "t3_peers-DALI_decoder": 18, "t3_peers-TorchCodec": 8, "t3_peers-torchvision": 12,
        "t3_peers-nvImageCodec": 11, "e20_crops": 15, "e10_cores": 28, "e18_notebook": 12, "e17_doctor": 60,
        # cut off there after 70 s
        "e19_share": 90,
    },
}  # fmt: skip

#: failures that a rehearsal must survive
TROUBLE = (
    Experiment("x_trouble", "correctness", "a crash", 30, "crash", "crashed"),
    Experiment("x_trouble", "correctness", "a hang", 12, "hang", "out of time"),
    Experiment("x_trouble", "correctness", "garbage in the output and in the file", 30, "garbage", "done"),
    Experiment("x_trouble", "correctness", "an exception", 30, "exception", "failed"),
)


def chosen(only: Iterable[str] = (), *, rehearsal: bool = False) -> list[Experiment]:
    """Return the experiments selected by these words, or all; `ValueError` for a word that selects none."""
    everything = [*(TROUBLE if rehearsal else ()), *EXPERIMENTS]
    words = [word for text in only for word in text.split(",") if word]
    for word in words:
        if not any(found.matches(word) for found in everything):
            names = ", ".join(dict.fromkeys(found.module for found in everything))
            raise ValueError(f"--only {word}: no such experiment; there are {names}")
    return [found for found in everything if not words or any(map(found.matches, words))]


def planned(experiments: Iterable[Experiment], plan: str) -> list[Experiment]:
    """Return the experiments of a plan, in its order."""
    order = list(PLANS[plan])
    return sorted((e for e in experiments if e.name in order), key=lambda e: order.index(e.name))


def seconds_of(experiments: Iterable[Experiment], plan: str, jobs: int) -> int:
    """Estimate the seconds of a brief run of a plan, without the start of the machine."""
    total = 0
    for untimed, group in itertools.groupby(experiments, lambda e: e.stage in UNTIMED):
        each = [PLANS[plan][experiment.name] for experiment in group]
        total += max(max(each), sum(each) // jobs) if untimed else sum(each)
    return total
