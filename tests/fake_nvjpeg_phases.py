"""The decoupled path of the fake nvJPEG: one image in three phases, on the CPU, on its way, on the GPU."""

from __future__ import annotations

from typing import Any

from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from tests.fake_nvjpeg_decode import Decoding
from tests.fake_nvjpeg_images import Refused
from tests.fake_nvjpeg_objects import Decoder, JpegStream, Params
from tests.fake_nvjpeg_plumbing import INVALID

__all__ = ["Phases"]


class Phases(Decoding):
    """The calls of the three phases."""

    def _nvjpegDecodeJpegHost(
        self, handle: int | None, decoder: int | None, state: int | None, params: int | None, jpeg: int | None
    ) -> None:
        owner, found = self._state(handle, state, decoder)
        wish, bits = self._get(Params, params), self._get(JpegStream, jpeg)
        if not bits.whole:
            self._mistake("nvjpegDecodeJpegHost needs a bitstream read by nvjpegJpegStreamParse")
            raise Refused(INVALID)
        if found.pinned is not None and found.pinned.flying:
            self._mistake("nvjpegDecodeJpegHost writes to a pinned buffer whose upload is in flight")
        backend = self._get(Decoder, decoder).backend
        if not bits.saved and self._bytes(bits.address, len(bits.data), backend) != bits.data:
            self._mistake("compressed bytes were changed between parsing and nvjpegDecodeJpegHost")
        found.hosted, found.transferred = None, False
        work = self._work(backend, bits.data, wish, batched=False)
        if found.pinned is not None:
            found.pinned.pool.resize(len(bits.data), owner.pinned_padding, None, with_bytes=True)
        work.parse = (bits, bits.parses)
        found.hosted = work
        self._count(backend, [work], batched=False)

    def _nvjpegDecodeJpegTransferToDevice(
        self, handle: int | None, decoder: int | None, state: int | None, jpeg: int | None, stream: int | None
    ) -> None:
        owner, found = self._state(handle, state, decoder)
        where, bits = self._stream(stream), self._get(JpegStream, jpeg)
        if found.device is None:
            raise Refused(INVALID)
        if found.device.flying:
            self._mistake(
                "nvjpegDecodeJpegTransferToDevice while the image before is in flight: NVIDIA's sample, DALI "
                "and torchvision wait for it on the host"
            )
        if found.hosted is None or found.hosted.parse != (bits, bits.parses):
            self._mistake("nvjpegDecodeJpegTransferToDevice without nvjpegDecodeJpegHost before it")
            raise Refused(INVALID)
        found.device.pool.resize(
            len(found.hosted.data), owner.device_padding, stream, with_bytes=True
        )  # fmt: skip
        used = [buffer for buffer in (found.pinned, found.device) if buffer is not None]
        for buffer in used:
            self._take(buffer, where)
        where.submit(lambda: self._release(*used))
        found.transferred = True

    def _nvjpegDecodeJpegDevice(
        self,
        handle: int | None,
        decoder: int | None,
        state: int | None,
        destination: Any,
        stream: int | None,
    ) -> None:
        _, found = self._state(handle, state, decoder)
        where = self._stream(stream)
        if not destination:
            raise Refused(INVALID)
        if found.hosted is None or not found.transferred or found.device is None:
            self._mistake("nvjpegDecodeJpegDevice without the two phases before it")
            raise Refused(INVALID)
        work, found.hosted, found.transferred = found.hosted, None, False
        if work.turned:  # the support query says yes all the same
            raise Refused(Status.NVJPEG_STATUS_EXECUTION_FAILED)
        self._views(destination[0], work)
        backend = self._get(Decoder, decoder).backend
        self._submit(where, backend, [] if work.skipped else [work], found, found.device)

    def _nvjpegDecodeJpeg(
        self,
        handle: int | None,
        decoder: int | None,
        state: int | None,
        jpeg: int | None,
        destination: Any,
        params: int | None,
        stream: int | None,
    ) -> None:
        _, found = self._state(handle, state, decoder)
        if found.device is None:
            raise Refused(INVALID)
        self._nvjpegDecodeJpegHost(handle, decoder, state, params, jpeg)
        self._nvjpegDecodeJpegTransferToDevice(handle, decoder, state, jpeg, stream)
        self._nvjpegDecodeJpegDevice(handle, decoder, state, destination, stream)
