"""A dataset of the Hugging Face library `datasets`, with its image files as they are.

`datasets` decodes images when they are indexed; here they arrive encoded, and the writer stores JPEG files
unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ffcv_gpu.convert import required
from ffcv_gpu.errors import PipelineError

__all__ = ["HuggingFaceDataset"]


class HuggingFaceDataset:
    """Rows as dicts; an image is the bytes, or the local path, of its file; None if it is missing.

    ``dataset[i]`` is row i. A streamed dataset has no row numbers; it can be iterated, and written by
    `DatasetWriter.from_iterable`.

    The writer takes each field's value from the column of the same name; rename others first
    (``dataset.rename_column("img", "image")``), and leave out columns that are not needed
    (``dataset.select_columns(["image", "label"])``), which would be read for nothing.

    Parameters
    ----------
    dataset : datasets.Dataset or datasets.IterableDataset
        One split. Its format and transforms are ignored, except for the transforms of a streamed one. Not
        modified.

    Attributes
    ----------
    classes : tuple of str or None
        Class names by label, of the only `ClassLabel` column; None without, or with several.

    Raises
    ------
    PipelineError
        If `datasets` is not installed, or `dataset` has several splits; from ``dataset[i]`` and ``len``, if
        it is streamed.

    Examples
    --------
    >>> train = HuggingFaceDataset(datasets.load_dataset("uoft-cs/cifar10", split="train"))
    >>> fields = {"img": RGBImageField(), "label": IntField()}
    >>> writer = DatasetWriter("train.beton", fields, class_names=train.classes)
    >>> writer.from_indexed_dataset(train)

    Without storing the dataset first, in eight processes:

    >>> stream = datasets.load_dataset("ILSVRC/imagenet-1k", split="train", streaming=True)
    >>> writer.from_iterable(*(HuggingFaceDataset(stream.shard(8, k)) for k in range(8)))
    """

    def __init__(self, dataset: Any) -> None:
        library = required("datasets", "a Hugging Face dataset needs its library; pip install datasets")
        if isinstance(dataset, (library.DatasetDict, library.IterableDatasetDict)):
            raise PipelineError(
                f"give one split of the dataset, such as dataset[{next(iter(dataset), '')!r}]"
            )
        if not isinstance(dataset, (library.Dataset, library.IterableDataset)):
            raise PipelineError(f"expected a datasets.Dataset, not {type(dataset).__name__}")
        if dataset.features is None:
            raise PipelineError(
                "the columns of this streamed dataset are not known; give dataset.cast(features)"
            )
        self._streamed = isinstance(dataset, library.IterableDataset)
        self._images = [name for name, kind in dataset.features.items() if isinstance(kind, library.Image)]
        rows = dataset.with_format(None)
        for name in self._images:
            rows = rows.cast_column(name, library.Image(decode=False))
        self._rows = rows
        named = [kind for kind in dataset.features.values() if isinstance(kind, library.ClassLabel)]
        self.classes = tuple(map(str, named[0].names)) if len(named) == 1 else None

    def _numbered(self) -> Any:
        if self._streamed:
            raise PipelineError(
                "a streamed dataset has no row numbers: write it by DatasetWriter.from_iterable, or load it"
                " without streaming=True"
            )
        return self._rows

    def __len__(self) -> int:
        return len(self._numbered())

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._with_files(self._numbered()[int(index)])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._rows:
            yield self._with_files(row)

    def _with_files(self, row: dict[str, Any]) -> dict[str, Any]:
        for name in self._images:
            file = row[name] or {}
            row[name] = file.get("bytes") or _local(file.get("path"))
        return row

    def __repr__(self) -> str:
        rows = "streamed rows" if self._streamed else f"{len(self):,} rows"
        return f"HuggingFaceDataset: {rows} of {', '.join(self._rows.column_names)}"


def _local(path: str | None) -> str | bytes | None:
    """Return the path of a local file as it is, and the bytes of one in an archive or behind a URL."""
    if path is None or "://" not in path:
        return path
    from datasets.utils.file_utils import xopen

    with xopen(path, "rb") as file:
        data: bytes = file.read()
    return data
