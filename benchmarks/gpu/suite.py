"""The experiments in the order in which they are run: correctness, then what decides most."""

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
#: stages whose experiments may run beside each other
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
        limit
    part
        of the module's question: a crash or hang of one part costs no other
    expected
        how it must end, for those that fail on purpose
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
        """Say whether ``--only`` means it: E3, e03, e03_engine, e03_engine-part."""
        word = word.lower()
        short = self.module.split("_")[0]
        return word in (self.name.lower(), self.module, short, re.sub(r"^([a-z])0", r"\1", short))


EXPERIMENTS = (
    Experiment("e00_reach", "correctness", "which decoders can be reached, by which library", 60),
    Experiment("c1_parity", "correctness", "pixels beside libjpeg-turbo's, by the public call", 150),
    Experiment("c2_mixed", "correctness", "mixed batches: every sample in its place", 240),
    Experiment("c3_errors", "correctness", "one bad image costs no other", 120),
    Experiment("c4_ordering", "correctness", "memory used again while it is still read", 150),
    Experiment("c6_many", "correctness", "hundreds of thousands of images, bad ones among them", 180),
    Experiment("c5_tests", "correctness", "pytest -m gpu, no skips", 300),
    Experiment("e00_reach", "reach and limits", "other copies of nvJPEG on this machine", 60, "others"),
    Experiment("e01_kinds", "reach and limits", "which kinds each decoder takes, how exactly", 240),
    Experiment("e02_order", "reach and limits", "does a decoder wait for its stream; is its end sound", 90),
    *(
        Experiment("e09_errors", "reach and limits", f"a batch with one bad image: {kind}", 40, kind)
        for kind in DAMAGES
    ),
    Experiment("e12_sizes", "reach and limits", "smallest and largest image of each decoder", 90),
    Experiment("e03_engine", "peak", "the engines, batched: speed by batch, format and set", 300),
    Experiment("e04_decoupled", "peak", "the engines, one image at a time, by threads", 180),
    Experiment("e05_gpu_huffman", "peak", "the GPU's cores: speed by batch, format and states", 240),
    Experiment("e06_both", "tuning", "engines and cores at once; beside a training load", 150),
    Experiment("e07_roi", "tuning", "decoding a rectangle only, and at half the size", 150),
    Experiment("e15_mixture", "tuning", "what unlike images in a batch cost the engines", 120),
    Experiment("e15_mixture", "tuning", "a state for each subsampling", 60, "states"),
    Experiment("e16_reading", "tuning", "the CPU's part: page cache and checksums", 60),
    Experiment("e08_device", "tuning", "compressed bytes already on the GPU", 90),
    Experiment("e10_cores", "tuning", "few CPU cores, spinning waits, a busy interpreter", 90),
    Experiment("e11_memory", "tuning", "allocations in steady state, memory reserved", 120),
    Experiment("e13_kernel", "tuning", "the fused kernel beside the copy bandwidth", 180),
    Experiment("e14_loader", "tuning", "a training step fed by the loader, and by DALI", 180),
    Experiment("t1_decode", "throughput", "decode_jpegs beside bare nvJPEG", 120),
    Experiment("t2_loader", "throughput", "the loader beside bare nvJPEG, by files and cores", 300),
    *(
        Experiment("t3_peers", "throughput", f"{part} beside ours, the same images", 90, part)
        for part in PARTS
    ),
    Experiment("t4_training", "throughput", "CIFAR-10 trained: accuracy and seconds by seed", 180),
    Experiment("e17_doctor", "throughput", "what the doctor says of a file here", 90),
    Experiment("e18_notebook", "throughput", "the notebook about decoding, live", 120),
)

#: by name: what some minutes on a GPU are best spent on, the most valuable first, and the seconds of each in
#: a brief run. "second": what has changed since the first results of an H200, and what they leave out.
PLANS = {
    "second": {
        # measured there, by shorter turns where T2's and T3's are longer now
        "c5_tests": 151, "c2_mixed": 78, "c4_ordering": 62, "c6_many": 60, "c3_errors": 24, "c1_parity": 12,
        "t2_loader": 40,
        "t3_peers-DALI_pipeline": 25,
        # guesses
        "t3_peers-DALI_pipeline_on_2_cores": 25, "e14_loader": 50,
        # measured
        "t1_decode": 14, "e13_kernel": 30,
        # guesses
        "e16_reading": 20, "e10_cores": 30, "t4_training": 60, "e17_doctor": 30, "e06_both": 35,
        "e05_gpu_huffman": 30, "e07_roi": 30,
        # measured
        "t3_peers-DALI_decoder": 18, "t3_peers-TorchCodec": 8, "t3_peers-torchvision": 12,
        "t3_peers-nvImageCodec": 11,
        # guesses
        "e11_memory": 30, "e08_device": 20, "e18_notebook": 25,
    },
}  # fmt: skip

#: what a rehearsal must survive
TROUBLE = (
    Experiment("x_trouble", "correctness", "a crash", 30, "crash", "crashed"),
    Experiment("x_trouble", "correctness", "a hang", 6, "hang", "out of time"),
    Experiment("x_trouble", "correctness", "garbage in the output and in the file", 30, "garbage", "done"),
    Experiment("x_trouble", "correctness", "an exception", 30, "exception", "failed"),
)


def chosen(only: Iterable[str] = (), *, rehearsal: bool = False) -> list[Experiment]:
    """Return the experiments that these words name, or all; `ValueError` for a word that names none."""
    everything = [*(TROUBLE if rehearsal else ()), *EXPERIMENTS]
    words = [word for text in only for word in text.split(",") if word]
    for word in words:
        if not any(found.matches(word) for found in everything):
            names = ", ".join(dict.fromkeys(found.module for found in everything))
            raise ValueError(f"--only {word}: no such experiment; there are {names}")
    return [found for found in everything if not words or any(map(found.matches, words))]


def planned(experiments: Iterable[Experiment], plan: str) -> list[Experiment]:
    """Return those of a plan, in its order."""
    order = list(PLANS[plan])
    return sorted((e for e in experiments if e.name in order), key=lambda e: order.index(e.name))


def seconds_of(experiments: Iterable[Experiment], plan: str, jobs: int) -> int:
    """Return about how long a brief run of a plan takes, without the start of the machine."""
    total = 0
    for untimed, group in itertools.groupby(experiments, lambda e: e.stage in UNTIMED):
        each = [PLANS[plan][experiment.name] for experiment in group]
        total += max(max(each), sum(each) // jobs) if untimed else sum(each)
    return total
