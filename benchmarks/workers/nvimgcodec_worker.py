"""nvImageCodec's CPU decoder as a contender; it starts only where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import contender
import numpy as np
from nvidia import nvimgcodec


def make_decoder(files: Sequence[bytes], threads: int, batch_size: int = 32, **_: Any) -> Callable[[], Any]:
    """Decode batch by batch in the library's threads, to images in host memory."""
    only = [nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)]
    decoder = nvimgcodec.Decoder(max_num_cpu_threads=threads, backends=only)
    parameters = nvimgcodec.DecodeParams(apply_exif_orientation=False)
    batches = [list(files[i : i + batch_size]) for i in range(0, len(files), batch_size)]

    def all_files() -> Any:
        for batch in batches:
            images = decoder.decode(batch, params=parameters)
            if any(image is None for image in images):
                raise ValueError("nvImageCodec left images undecoded")
        return np.asarray(images[-1].cpu())

    return all_files


if __name__ == "__main__":
    contender.serve(("nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12"), make_decoder=make_decoder)
