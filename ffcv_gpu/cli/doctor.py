"""``ffcv-gpu doctor``: what is installed and working; with a file, what slows its loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffcv_gpu.cli.opening import CacheDir, CustomFields, fetch, open_file
from ffcv_gpu.cli.page import pairs, print_json, size

if TYPE_CHECKING:
    from ffcv_gpu.cli.opening import Opened
    from ffcv_gpu.doctor import Diagnosis

__all__ = ["doctor"]

_GPU = "yes: device='auto' makes a Loader decode and augment there"


def doctor(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="A .beton file to diagnose, or a URL: s3://bucket/train.beton. Of several that are loaded as"
            " one, give one that is like the others.",
            show_default=False,
        ),
    ] = None,
    step_ms: Annotated[
        float | None,
        typer.Option(min=0.001, help="Your training step, ms per batch, without waits.", show_default=False),
    ] = None,
    side: Annotated[int, typer.Option("--size", min=1, help="Side of the output images, in pixels.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per batch.")] = 256,
    workers: Annotated[int, typer.Option(help="Threads; -1: one per CPU of this process.")] = -1,
    cold: Annotated[
        bool | None,
        typer.Option("--cold/--warm", help="Read payloads from storage, or memory.", show_default="by size"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    custom_field: CustomFields = None,
    cache_dir: CacheDir = None,
) -> None:
    """Show what is installed and works here; with a file, also what slows its loading and how to fix it.

    Without a file: paste the output into a bug report. The exit status is 1 if something that loading on
    the CPU needs does not work.

    With a file: storage, memory, decoding and augmentation (random-resized-crop and flip) are measured for
    this file on this machine, also with some of its images stored at other sizes and qualities, and with an
    index for crops. This takes some ten seconds. Where there is a GPU, the loader on it, decoding by
    each route, the fused launch and uploads are measured too. A small model then predicts images/s, names
    the bottleneck, and lists which changes would help, by how much, and how large the file would be.
    --step-ms includes your training step.
    A URL is fetched first; what is measured is its copy.

    \b
    Examples:
      ffcv-gpu doctor
      ffcv-gpu doctor train.beton
      ffcv-gpu doctor train.beton --step-ms 180 --batch-size 512 --workers 8
      ffcv-gpu doctor train.beton --cold --json > report.json
      ffcv-gpu doctor s3://bucket/train.beton --cache-dir /nvme/cache
    """
    report = _examine()
    if file is not None:
        from ffcv_gpu.cli.summary import summarise

        opened = open_file(file, custom_field, cache_dir=cache_dir)
        if not report["problems"]:
            fetch(opened)
        report["file"] = summarise(opened)
        if not report["problems"]:
            report["diagnosis"] = _diagnose(opened, side, batch_size, workers, step_ms, cold)
    if as_json:
        print_json(
            {**report, **({"diagnosis": report["diagnosis"].as_dict()} if "diagnosis" in report else {})}
        )
    else:
        _show(report)
    if report["problems"]:
        raise typer.Exit(1)


def _diagnose(
    opened: Opened,
    side: int,
    batch_size: int,
    workers: int,
    step_ms: float | None,
    cold: bool | None,
) -> Diagnosis:
    from ffcv_gpu.doctor import Setup, examine

    step = None if step_ms is None else step_ms / 1e3
    return examine(opened.path, Setup(batch_size, workers, side, step, cold, custom_fields=opened.custom))


def _examine() -> dict[str, Any]:
    from ffcv_gpu.cli import environment

    found = environment.problems()
    devices, reason = environment.gpus()
    return {
        "versions": environment.versions(),
        "machine": environment.machine(),
        "libraries": environment.libraries(),
        "gpus": devices,
        "no_gpu_because": reason,
        "problems": found,
    }


def _show(report: Mapping[str, Any]) -> None:
    print("versions")
    pairs([(name, version or "MISSING") for name, version in report["versions"].items()], indent="  ")
    print("\nmachine")
    pairs(_machine(report["machine"]), indent="  ")
    for number, gpu in enumerate(report["gpus"]):
        facts = f"{gpu['name']}, compute capability {gpu['capability']}, {size(gpu['memory_bytes'])}"
        pairs([(f"GPU {number}", facts)], indent="  ")
    print("\nlibraries")
    pairs([(name, found or "not found") for name, found in report["libraries"].items()], indent="  ")
    print("\nusable here")
    pairs(_usable(report), indent="  ")
    if report["problems"]:
        print("\nto fix")
        for sentence in report["problems"]:
            print(f"  {sentence}")
    if "file" in report:
        from ffcv_gpu.cli.info import show

        print("\nthe file\n")
        show(report["file"])
    if "diagnosis" in report:
        from ffcv_gpu.doctor import report as lines

        print(f"\nthe diagnosis\n\n{lines(report['diagnosis'])}")


def _machine(facts: Mapping[str, Any]) -> list[tuple[str, object]]:
    limit = facts["cpus_by_cgroup"]
    allowed = f"{facts['cpus']}, this process may use {facts['cpus_for_this_process']}"
    return [
        ("system", facts["system"]),
        ("CPU", facts["cpu"]),
        ("CPUs", allowed + (f", limited to {limit:g} by the container" if limit else "")),
        ("memory", f"{size(facts['memory_bytes'])}, available: {size(facts['memory_available_bytes'])}"),
    ]


def _usable(report: Mapping[str, Any]) -> list[tuple[str, object]]:
    versions, libraries = report["versions"], report["libraries"]
    turbo = libraries["libturbojpeg (many threads at once, lossless rewrites)"]
    turbo3 = libraries["libturbojpeg 3 (decodes only the crop)"]
    crops = "no; write files with --crop-index, or conda install -c conda-forge 'libjpeg-turbo>=3'"
    if turbo3:
        crops = "yes, in files with checksums; in others with jpeg_backend='turbo3'"
    torch = f"yes, torch {versions['torch']}" if "torch" in versions else "no: pip install ffcv-gpu[torch]"
    lossless = "yes" if turbo else "no, they are re-encoded; apt install libturbojpeg0 or libturbojpeg"
    many = "yes" if turbo else "no, which many threads feel; apt install libturbojpeg0 or libturbojpeg"
    return [
        ("loading on the CPU", "no, see below" if report["problems"] else "yes"),
        ("batches as torch tensors", torch),
        ("progressive JPEGs rewritten losslessly", lossless),
        ("JPEGs decoded many in one call (CPU)", many),
        ("JPEGs decoded only inside the crop (CPU)", crops),
        ("a GPU", _GPU if report["no_gpu_because"] is None else f"no: {report['no_gpu_because']}"),
    ]
