"""An open ``.beton`` file: everything except the payloads, as checked arrays over one memory map."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format.layout import (
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    FieldDescriptor,
    FieldDescType,
    FileLayout,
    HeaderType,
    metadata_dtype,
    page_size_is_valid,
    unpack_descriptors,
)
from ffcv_gpu.format.notes import Skipped, SourceIds
from ffcv_gpu.format.payloads import DataRegion, Payloads, PayloadTable, pages_of_samples, payloads_of
from ffcv_gpu.format.records import RECORD_DTYPES, TypeId
from ffcv_gpu.format.section import Section, parse_section

__all__ = ["Beton"]

_Ints = npt.NDArray[np.int64]


class Beton:
    """An open ``.beton`` file: its description, and arrays over a read-only memory map.

    All arrays are read-only and stay valid as long as they are referenced. Computed values are cached on
    first use.

    Attributes
    ----------
    path, size_bytes, version, page_size, num_samples
        from the header and the file itself
    data
        uint8 (size_bytes,), the whole file
    fields, field_names
        the descriptors and their names, in the order of the record's members
    table_offset
        where the allocation table begins
    layout
        where metadata and pages begin
    metadata
        (num_samples,) records with members f0, f1, ...
    allocations
        (entries,) `ALLOC_TABLE_TYPE`, in stored order
    section
        the integrity section; None in a plain FFCV file
    """

    def __init__(
        self, path: str, data: npt.NDArray[np.uint8], record_dtypes: Mapping[str, np.dtype[Any]]
    ) -> None:
        header = data[: HeaderType.itemsize].view(HeaderType)[0]
        self.path = path
        self.data = data
        self.size_bytes = len(data)
        self.version = int(header["version"])
        self.page_size = int(header["page_size"])
        self.num_samples = int(header["num_samples"])
        self.table_offset = int(header["alloc_table_ptr"])
        self.layout = self._read_layout(int(header["num_fields"]), record_dtypes)
        self.fields = self.layout.descriptors
        self.field_names = tuple(field.name for field in self.fields)
        start, end = self.layout.metadata_offset, self.layout.metadata_end
        self.metadata = data[start:end].view(self.layout.dtype)
        self.section = self._read_section()
        self.allocations = self._read_table()
        self._payloads: dict[tuple[str, str | None], Payloads] = {}

    def _read_layout(self, num_fields: int, record_dtypes: Mapping[str, np.dtype[Any]]) -> FileLayout:
        if self.version != CURRENT_VERSION:
            self._refuse(
                f"version {self.version} at byte 0, expected {CURRENT_VERSION}: not a .beton file, or damaged"
            )
        if not page_size_is_valid(self.page_size) or not num_fields:
            self._refuse(
                f"{num_fields} fields and a page size of {self.page_size} (bytes 2 to 8) cannot be right:"
                " not a .beton file, or damaged"
            )
        start, end = HeaderType.itemsize, HeaderType.itemsize + num_fields * FieldDescType.itemsize
        if end > self.size_bytes:
            self._refuse(
                f"{num_fields} field descriptors end at byte {end}, the file at {self.size_bytes}: truncated"
            )
        try:
            descriptors = unpack_descriptors(self.data[start:end].tobytes())
        except FormatError as error:
            raise FormatError(f"{self.path}: {error}") from None
        records = [self._record_dtype(field, record_dtypes) for field in descriptors]
        layout = FileLayout(self.page_size, self.num_samples, descriptors, metadata_dtype(records))
        # Compared as Python integers, which do not overflow, before the number of samples is used.
        if layout.metadata_end > self.size_bytes:
            self._refuse(
                f"metadata of {self.num_samples} samples ends at byte {layout.metadata_end}, the file at"
                f" {self.size_bytes}: truncated, or its header is damaged"
            )
        return layout

    def _record_dtype(
        self, field: FieldDescriptor, record_dtypes: Mapping[str, np.dtype[Any]]
    ) -> np.dtype[Any]:
        if field.name in record_dtypes:
            dtype = np.dtype(record_dtypes[field.name])
            if dtype.hasobject or dtype.itemsize == 0:
                self._refuse(f"field {field.name!r}: a record of {dtype} cannot be stored")
            return dtype
        if field.type_id in RECORD_DTYPES:
            return RECORD_DTYPES[field.type_id]
        if field.type_id == TypeId.CUSTOM:
            why = "is of a custom class (type id 255): pass its class in custom_fields"
        else:
            why = f"has type id {field.type_id}, which FFCV does not define: the file is damaged"
        raise FormatError(f"{self.path}: field {field.name!r} {why}")

    def _read_section(self) -> Section | None:
        end, start = self.table_offset, self.layout.metadata_end
        if end < start:
            self._refuse(
                f"the allocation table begins at byte {end}, before the metadata ends ({start}):"
                " the writing of this file was interrupted; write it again"
            )
        if end > self.size_bytes:
            self._refuse(
                f"the allocation table begins at byte {end}, the file ends at {self.size_bytes}: truncated"
            )
        try:
            return parse_section(
                self.data, start=start, end=end, descriptors=self.fields, num_samples=self.num_samples
            )
        except FormatError as error:
            raise FormatError(f"{self.path}: {error}") from None

    def _read_table(self) -> npt.NDArray[Any]:
        # Up to 23 bytes after the last whole entry are ignored, as in FFCV.
        entries = (self.size_bytes - self.table_offset) // ALLOC_TABLE_TYPE.itemsize
        if self.section is not None and entries != self.section.num_entries:
            self._refuse(
                f"{entries} entries in the allocation table at byte {self.table_offset},"
                f" {self.section.num_entries} were written: the end of the file was cut off or added to"
            )
        end = self.table_offset + entries * ALLOC_TABLE_TYPE.itemsize
        return self.data[self.table_offset : end].view(ALLOC_TABLE_TYPE)

    def _refuse(self, why: str) -> NoReturn:
        raise FormatError(f"{self.path}: {why}")

    @property
    def data_end(self) -> int:
        """First byte after the last page: where the section begins, or else the table."""
        return self.table_offset if self.section is None else self.section.offset

    def column(self, name: str) -> npt.NDArray[Any]:
        """The (num_samples,) records of one field, a view of ``metadata``; `KeyError` for an unknown name."""
        return self.metadata[f"f{self._number(name)}"]

    def offsets(self, name: str, pointer: str | None = None) -> _Ints:
        """Where each payload of a field begins, int64 (num_samples,); 0 for an empty one. See `lengths`."""
        return self._payloads_of(name, pointer).offsets

    def lengths(self, name: str, pointer: str | None = None) -> _Ints:
        """Bytes in each payload of a field, int64 (num_samples,), all checked to lie inside the pages.

        From the sides for a raw image, from ``size`` for a bytes or JSON record, from the allocation table
        for all others. Zero for scalar fields.

        Parameters
        ----------
        name
            of the field
        pointer
            for a custom record: the member that holds the offset ("" for the record itself); not needed
            where the record's dtype is a built-in field's

        Raises
        ------
        FormatError
            naming file, sample, field and offset, if a payload lies outside the pages or has no entry
        KeyError
            for an unknown name
        """
        return self._payloads_of(name, pointer).lengths

    def entries(self, name: str, pointer: str | None = None) -> _Ints:
        """Row of the allocation table for each payload of a field, int64 (num_samples,); -1 for none."""
        return self._payloads_of(name, pointer).entries

    def find(self, pointers: npt.NDArray[np.uint64]) -> _Ints:
        """Row of the allocation table with this pointer of each sample, int64 (num_samples,); -1: none."""
        return self._table.find(pointers)

    def checksums(self, name: str, pointer: str | None = None) -> npt.NDArray[np.uint32] | None:
        """CRC32C of each payload of a field, uint32 (num_samples,); None if the file has no checksums.

        0 for an empty payload, which is also the CRC32C of no bytes. Not cached: 4 MB per million samples.
        """
        if self.section is None or self.section.payload_crcs is None:
            return None
        entries = self._payloads_of(name, pointer).entries
        sums = np.zeros(self.num_samples, np.uint32)
        sums[entries >= 0] = self.section.payload_crcs[entries[entries >= 0]]
        return sums

    def facts(self, name: str) -> npt.NDArray[Any] | None:
        """The facts recorded about each image, `JPEG_FACTS` (num_samples,); None if there are none."""
        self._number(name)
        return None if self.section is None else self.section.facts.get(name)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names by label; None if the file has none."""
        return None if self.section is None else self.section.class_names

    @property
    def source_ids(self) -> SourceIds | None:
        """Where each sample came from, (num_samples,) strings; None if the file does not record it."""
        return None if self.section is None else self.section.source_ids

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The samples that the writer skipped, as it recorded them."""
        return () if self.section is None else self.section.skipped

    def sample_pages(self) -> _Ints:
        """Page number of each sample's payloads, int64 (num_samples,); -1 for a sample without any."""
        return self._sample_pages

    @cached_property
    def _sample_pages(self) -> _Ints:
        return pages_of_samples(self.allocations, self.num_samples, self.page_size)

    @cached_property
    def region(self) -> DataRegion:
        """The bytes where payloads may lie: the pages."""
        return DataRegion(self.path, self.layout.data_offset, self.data_end)

    @cached_property
    def _table(self) -> PayloadTable:
        return PayloadTable(self.allocations, self.region)

    def _payloads_of(self, name: str, pointer: str | None) -> Payloads:
        key = (name, pointer)
        if key not in self._payloads:
            field = self.fields[self._number(name)]
            self._payloads[key] = payloads_of(field, self.column(name), self._table, pointer)
        return self._payloads[key]

    def _number(self, name: str) -> int:
        try:
            return self.field_names.index(name)
        except ValueError:
            raise KeyError(
                f"{self.path} has no field {name!r}; it has {', '.join(self.field_names)}"
            ) from None
