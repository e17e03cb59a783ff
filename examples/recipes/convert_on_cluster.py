"""Convert an image folder on many machines: one shard per task, by Ray, Dask or local processes; then merge.

    python examples/recipes/convert_on_cluster.py FOLDER train.beton --shards 64 --engine ray

FOLDER and the shards must be on storage that all machines see. The file is the one that a single machine
would have written, byte for byte. Ray and Dask run a task again if its machine is lost. Shards that are
complete are not written again: after an error, run the same command again. In a job array (SLURM,
Kubernetes), one task is `ffcv-gpu write FOLDER train.beton --shard 17/64`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ffcv_gpu.convert.image_folder import ImageFolder
from ffcv_gpu.errors import FfcvGpuError, PipelineError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter, merge_files


def shard_paths(path: Path, count: int) -> list[Path]:
    """Return where `write_shard` puts each shard."""
    return [path.with_name(f"{path.stem}-{k:05d}-of-{count:05d}{path.suffix}") for k in range(count)]


def write_shard(folder: str, path: str, index: int, count: int, max_resolution: int | None) -> str:
    """Write one shard, in one process; return what it is, in a line. Runs on any machine."""
    dataset = ImageFolder(folder)
    fields = {"image": RGBImageField(max_resolution=max_resolution), "label": IntField()}
    settings: dict[str, Any] = {"num_workers": 1, "progress": False, "resume": True}
    writer = DatasetWriter(path, fields, class_names=dataset.classes, **settings)
    report = writer.from_indexed_dataset(dataset, source_ids=dataset.source_ids, shard=(index, count))
    return str(report).splitlines()[0]


def by_ray(tasks: list[tuple[Any, ...]]) -> list[str]:
    """Run the tasks on the Ray cluster that RAY_ADDRESS names, or on this machine."""
    import ray

    ray.init(log_to_driver=False)
    task = ray.remote(write_shard)
    try:
        return list(ray.get([task.remote(*arguments) for arguments in tasks]))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        ray.shutdown()


def by_dask(tasks: list[tuple[Any, ...]]) -> list[str]:
    """Run the tasks on the Dask cluster that DASK_SCHEDULER_ADDRESS names, or on this machine."""
    from distributed import Client

    with Client() as client:
        futures = [client.submit(write_shard, *task, pure=False) for task in tasks]
        return list(client.gather(futures))


def by_processes(tasks: list[tuple[Any, ...]]) -> list[str]:
    """Run the tasks in processes of this machine. Any `concurrent.futures.Executor` works this way."""
    with ProcessPoolExecutor() as executor:
        return list(executor.map(write_shard, *zip(*tasks, strict=True)))


ENGINES: dict[str, Callable[[list[tuple[Any, ...]]], list[str]]] = {
    "ray": by_ray,
    "dask": by_dask,
    "processes": by_processes,
}


def convert(options: argparse.Namespace) -> None:
    """Write all shards, merge them and delete them."""
    if options.shards < 1:
        raise PipelineError(f"--shards {options.shards}: at least 1")
    folder, path = options.folder.absolute(), options.out.absolute()
    ImageFolder(folder)  # refused here rather than by each task
    count, most = options.shards, options.max_resolution
    tasks = [(str(folder), str(path), k, count, most) for k in range(count)]
    try:
        lines = ENGINES[options.engine](tasks)
    except ImportError as error:
        raise PipelineError(
            f"--engine {options.engine}: {error}; install it, or use another engine"
        ) from error
    print(*lines, sep="\n")
    shards = shard_paths(path, count)
    print(merge_files(shards, path))
    for shard in shards:
        shard.unlink()


def main(arguments: list[str] | None = None) -> int:
    """Convert; return the exit status, 2 after an expected error (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--engine", choices=tuple(ENGINES), default="processes")
    parser.add_argument("--max-resolution", type=int)
    try:
        convert(parser.parse_args(arguments))
    except FfcvGpuError as error:
        print(f"convert_on_cluster.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
