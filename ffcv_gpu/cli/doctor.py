"""``ffcv-gpu doctor``: what is installed, what of it works, and what a bug report needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ffcv_gpu.cli.opening import CustomFields, open_file
from ffcv_gpu.cli.page import pairs, print_json, size

__all__ = ["doctor"]

_GPU = "yes, batches are copied there (this version decodes on the CPU)"


def doctor(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A .beton file to look into.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON, for programs.")] = False,
    custom_field: CustomFields = None,
) -> None:
    """Show what is installed, what of it works here, and what to install for the rest.

    Paste the output into a bug report. With a file, what `info` says about it comes with it. The status
    is 1 if something that loading on the CPU needs does not work.

    \b
    Examples:
      ffcv-gpu doctor
      ffcv-gpu doctor train.beton > report.txt
    """
    report = _examine()
    if file is not None:
        from ffcv_gpu.cli.summary import summarise

        report["file"] = summarise(open_file(file, custom_field))
    if as_json:
        print_json(report)
    else:
        _show(report)
    if report["problems"]:
        raise typer.Exit(1)


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
        print("\nto mend")
        for sentence in report["problems"]:
            print(f"  {sentence}")
    if "file" in report:
        from ffcv_gpu.cli.info import show

        print("\nthe file\n")
        show(report["file"])


def _machine(facts: Mapping[str, Any]) -> list[tuple[str, object]]:
    limit = facts["cpus_by_cgroup"]
    allowed = f"{facts['cpus']}, this process may use {facts['cpus_for_this_process']}"
    return [
        ("system", facts["system"]),
        ("CPU", facts["cpu"]),
        ("CPUs", allowed + (f", the container {limit:g} at once" if limit else "")),
        ("memory", size(facts["memory_bytes"])),
    ]


def _usable(report: Mapping[str, Any]) -> list[tuple[str, object]]:
    versions, libraries = report["versions"], report["libraries"]
    turbo = libraries["libturbojpeg (lossless rewrites)"]
    torch = f"yes, torch {versions['torch']}" if "torch" in versions else "no: pip install ffcv-gpu[torch]"
    lossless = "yes" if turbo else "no, they are encoded again; apt install libturbojpeg0, or libturbojpeg"
    return [
        ("loading on the CPU", "no, see below" if report["problems"] else "yes"),
        ("batches as torch tensors", torch),
        ("progressive JPEGs rewritten without loss", lossless),
        ("a GPU", _GPU if report["gpus"] else f"no: {report['no_gpu_because']}"),
    ]
