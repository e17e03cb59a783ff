"""Formats a diagnosis as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ffcv_gpu.doctor.advice import FILE_KNOBS, LOADER_KNOBS, WORTH, first_of_each_knob
from ffcv_gpu.doctor.diagnosis import VERDICTS, Diagnosis
from ffcv_gpu.doctor.gpu import GpuFacts
from ffcv_gpu.doctor.model import Prediction
from ffcv_gpu.doctor.survey import Survey

__all__ = ["report"]

#: a loader that reaches this share of a part's speed is limited by that part
NEAR = 0.8
#: what else helps against each bottleneck, besides changes of the file and the loader's settings
ELSEWHERE: Mapping[str, str] = {
    "disk": "a faster disk, or more memory, so that the file stays in the page cache",
    "decode": "more CPU cores, or a GPU that decodes (device='cuda')",
    "compose": "more CPU cores, a smaller output, or a GPU (device='cuda')",
    "check": "faster memory",
    "other": "smaller arrays: another dtype or shape",
    "one thread": "a faster CPU core, or fewer fields: pipelines={'name': None} leaves one out",
    "step": "a faster training step; the loader could use fewer workers",
}


def report(diagnosis: Diagnosis) -> str:
    """Return the text that `ffcv-gpu doctor FILE` prints.

    Parameters
    ----------
    diagnosis : Diagnosis
    """
    return "\n".join([*_measured(diagnosis), "", *_predicted(diagnosis), "", *_advice(diagnosis)])


def _measured(diagnosis: Diagnosis) -> Iterator[str]:
    found = diagnosis.found
    disk, load, costs = found.disk, diagnosis.load, found.costs
    yield f"measured here ({diagnosis.situation.cpus} CPUs for this process)"
    if disk.cold is None:
        yield "  storage          not measured: the system keeps this file's pages in memory"
    else:
        threads = "1 thread" if disk.threads == 1 else f"{disk.threads} threads"
        yield f"  storage          {_speed(disk.cold)} with {threads}, payloads in random order"
    if disk.cached is not None:
        yield f"                   {disk.cached:.0%} of the sampled payloads were in the page cache"
    yield f"  memory           {found.copy_bytes_per_second / 1e9:.1f} GB/s copied by one thread"
    for stage, seconds in load.stages.items():
        if seconds > 0:
            yield f"  {stage:<16} {seconds * 1e6:.0f} us/sample: {1 / seconds:,.0f} samples/s per core"
    one = costs.plan_sample + costs.plan_batch / diagnosis.situation.batch_size
    yield f"  {'one thread':<16} {one * 1e6:.1f} us/sample, planning and handing over"
    if found.gpu is not None:
        yield from _gpu_measured(found.gpu)


def _gpu_measured(gpu: GpuFacts) -> Iterator[str]:
    yield f"  {gpu.name:<16} {gpu.images_per_second:,.0f} images/s by the loader on it"
    if gpu.shared_images_per_second:
        shared = gpu.shared_images_per_second
        yield f"                   {shared:,.0f} images/s if idle CPU cores decode, too (cpu_share='auto')"
    for route, rate in gpu.routes.items():
        yield f"                   {rate:,.0f} JPEGs/s decoded alone ({route.removeprefix('jpeg: ')})"
    if gpu.launch_images_per_second:
        yield f"                   {gpu.launch_images_per_second:,.0f} images/s by the fused launch alone"
    yield f"                   {gpu.upload_bytes_per_second / 1e9:.1f} GB/s from pinned memory"


def _speed(seconds_per_byte: float) -> str:
    rate = 1e-6 / seconds_per_byte
    return f"{rate:,.0f} MB/s" if rate >= 10 else f"{rate:.2g} MB/s"  # few bytes per payload: mostly waits


def _predicted(diagnosis: Diagnosis) -> Iterator[str]:
    situation = diagnosis.situation
    threads = "1 worker" if situation.workers == 1 else f"{situation.workers} workers"
    where = "from storage" if situation.cold else "from the page cache"
    yield f"predicted with {threads}, batch size {situation.batch_size}, {where}"
    yield f"  {diagnosis.prediction.images_per_second:,.0f} images/s ({_limits(diagnosis.prediction)})"
    if diagnosis.first_epoch is not None:
        first = diagnosis.first_epoch
        yield (
            f"  {first.images_per_second:,.0f} images/s until the file is in memory; "
            f"bottleneck then: {VERDICTS[first.bottleneck]}"
        )
    yield f"the bottleneck is {VERDICTS[diagnosis.bottleneck]}"
    samples = diagnosis.found.survey.samples
    if samples < situation.batch_size:
        number = "1 sample" if samples == 1 else f"{samples:,} samples"
        yield (
            f"  but the file has {number}, less than a batch, which say little about a larger one:"
            " starting an epoch costs more"
        )


def _limits(prediction: Prediction) -> str:
    limits = sorted(prediction.limits.items(), key=lambda limit: limit[1])
    return ", ".join(f"{name} {limit:,.0f}" for name, limit in limits)


def _advice(diagnosis: Diagnosis) -> Iterator[str]:
    changes, now = first_of_each_knob(diagnosis.changes), diagnosis.prediction.images_per_second
    size = diagnosis.found.survey.file_bytes
    if changes and diagnosis.bottleneck == "step":
        yield "no change of the file makes this faster; these save space at the same speed (predicted)"
    elif changes:
        yield "what would help (predicted; the fastest change of each kind, and its smallest file)"
    if diagnosis.found.survey.crop_index and any(change.knob in FILE_KNOBS for change in changes):
        yield "  JPEGs keep an index for crops: crop_index=True in what follows"
    for change in changes:
        speed = change.prediction.images_per_second
        yield f"  {change.what}"
        yield (
            f"      {speed:,.0f} images/s, x {speed / now:.2f}; file {change.file_bytes / 1e6:,.1f} MB, "
            f"x {change.file_bytes / size:.2f}; then limited by {change.prediction.bottleneck}"
        )
        if change.knob == "quality" and diagnosis.found.survey.jpeg.any():
            yield "      writers keep JPEGs as they are: give them the pixels, as BetonDataset(FILE) returns"
    yield from _on_gpu(diagnosis)
    idle = _idle_knobs(diagnosis)
    if idle:
        yield f"would gain less than {WORTH - 1:.0%}: {', '.join(idle)}"
    yield f"{'also' if changes else 'what would help'}: {ELSEWHERE[diagnosis.bottleneck]}"


def _idle_knobs(diagnosis: Diagnosis) -> list[str]:
    """Return the knobs that would not help; none if your step is the limit."""
    if diagnosis.bottleneck == "step":
        return []
    looked_at = LOADER_KNOBS if diagnosis.found.survey.image is None else FILE_KNOBS + LOADER_KNOBS
    useful = {change.knob for change in diagnosis.changes}
    return [knob for knob in looked_at if knob not in useful]


def _on_gpu(diagnosis: Diagnosis) -> Iterator[str]:
    gpu, now = diagnosis.found.gpu, diagnosis.prediction.images_per_second
    if diagnosis.found.survey.image is None:
        return
    if gpu is None:
        yield "  decode batch (on a GPU): not measured here, no usable GPU"
        return
    if diagnosis.bottleneck != "step":
        speed = gpu.images_per_second
        if speed > now:
            yield f"  device={gpu.name!r}, from the page cache (measured, with nothing else on the GPU)"
            yield f"      {speed:,.0f} images/s, x {speed / now:.2f}; same file"
        shared = gpu.shared_images_per_second
        if shared > max(now, speed * WORTH):
            yield f"  device={gpu.name!r} with cpu_share='auto', likewise"
            yield f"      {shared:,.0f} images/s, x {shared / now:.2f}; same file"
        yield from _gpu_limit(gpu, diagnosis.found.survey)
    yield from _decode_batch(gpu)


def _gpu_limit(gpu: GpuFacts, survey: Survey) -> Iterator[str]:
    """Say what limits the loader on the GPU: one of the GPU's parts, or the CPU that feeds them."""
    limits = gpu.limits(survey)
    if not limits:
        return
    slowest = min(limits, key=lambda name: limits[name])
    reached = gpu.images_per_second / limits[slowest]
    if reached >= NEAR:
        share = f"{min(reached, 1.0):.0%} of what it allows"
        yield f"  the limit on {gpu.name} is {slowest}: the loader reaches {share}"
        return
    yield f"  the limit on {gpu.name} is the CPU, which reads, checks and plans"
    words = f"the GPU's slowest part, {slowest}, would allow x {1 / reached:.1f}"
    yield f"      more workers, or larger batches; {words}"


def _decode_batch(gpu: GpuFacts) -> Iterator[str]:
    sizes = ", ".join(f"{size}: {speed:,.0f} images/s" for size, speed in gpu.batches.items())
    yield f"  decode batch on {gpu.name}, measured: {sizes}"
    best = max(gpu.batches, key=lambda size: gpu.batches[size])
    speed = gpu.batches[best]
    if speed > WORTH * gpu.images_per_second:
        yield f"      batch_size={best}: x {speed / gpu.images_per_second:.2f} on {gpu.name}; same file"
