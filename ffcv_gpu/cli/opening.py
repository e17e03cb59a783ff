"""Opens a file or a URL for the commands: its description, its fields as objects, and custom classes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ffcv_gpu.cli.page import progress

if TYPE_CHECKING:
    from ffcv_gpu.format import Beton
    from ffcv_gpu.readers import RemoteFile

__all__ = [
    "CacheDir",
    "CustomFields",
    "FilesOrUrls",
    "Opened",
    "class_wanted",
    "custom_classes",
    "fetch",
    "open_file",
]

#: not a Path, which would replace the two slashes by one
FilesOrUrls = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE", help="A .beton file, or a URL: s3://bucket/train.beton.", show_default=False
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        help="For a URL: a folder on a local disk for its copy, as the Loader's cache_dir.",
        show_default=False,
    ),
]
CustomFields = Annotated[
    list[str] | None,
    typer.Option(
        "--custom-field",
        metavar="NAME=MODULE:CLASS",
        help="The class of a custom field; may be repeated.",
        show_default=False,
    ),
]


class Opened(NamedTuple):
    """A file, its fields by name in file order, and the classes of its custom fields."""

    beton: Beton
    fields: Mapping[str, Any]
    custom: Mapping[str, Any]
    remote: RemoteFile | None = None

    @property
    def path(self) -> str:
        """The path of the file, or of its copy, on the local disk."""
        return self.beton.path if self.remote is None else self.remote.path

    def class_name(self, name: str) -> str:
        """Return the name of a field's class; `from_binary` of a subclass may return its base."""
        kind = self.custom[name] if name in self.custom else type(self.fields[name])
        return str(kind.__name__)

    def pointers(self, name: str) -> tuple[str | None, ...]:
        """Return the members of a field's record that hold offsets, as `Beton.lengths` takes them.

        (None,) for a built-in field with payloads: there, the file itself knows where they lie.
        """
        named = tuple(getattr(self.fields[name], "pointers", ()))
        return named if name in self.custom or not named else (None,)

    def is_image(self, name: str) -> bool:
        """Return True if the field's records have an image's members."""
        return {"mode", "width", "height", "data_ptr"} <= set(self.beton.column(name).dtype.names or ())


def custom_classes(given: Sequence[str] | None) -> dict[str, Any]:
    """Import and return the classes that ``--custom-field`` names; the current folder is searched too."""
    classes = {}
    for text in given or ():
        name, equals, path = text.partition("=")
        module, colon, kind = path.partition(":")
        if not (name and equals and module and colon and kind):
            raise typer.BadParameter(f"--custom-field {text!r}: expected NAME=MODULE:CLASS")
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # as `python -m` does; a console script does not
        try:
            classes[name] = getattr(importlib.import_module(module), kind)
        except (ImportError, AttributeError) as error:
            raise typer.BadParameter(f"--custom-field {text!r}: {error}") from error
    return classes


def open_file(
    name: str | Path,
    given: Sequence[str] | None,
    *,
    check_sums: bool = True,
    cache_dir: Path | None = None,
) -> Opened:
    """Open a file; a custom field without a class raises an error that shows the option to add."""
    from ffcv_gpu.dataset.dataset import checked_folder
    from ffcv_gpu.dataset.stored import stored_fields
    from ffcv_gpu.readers import RemoteFile, is_url

    custom = custom_classes(given)
    remote = RemoteFile(str(name), checked_folder(cache_dir)) if is_url(str(name)) else None
    path = str(name) if remote is None else remote.path
    with class_wanted():
        stored = stored_fields(path, custom)
    beton = stored.open(check_sums=check_sums, name=str(name))
    return Opened(beton, stored.fields, stored.custom, remote)


@contextmanager
def class_wanted() -> Iterator[None]:
    """Show the option to add, if a custom field of a file has no class."""
    from ffcv_gpu.errors import PipelineError

    try:
        yield
    except PipelineError as error:
        if error.field is None:
            raise
        raise typer.BadParameter(
            f"{str(error).partition(': ')[0]}: field {error.field!r} has a custom class; name it:"
            f" --custom-field {error.field}=package.module:Class"
        ) from error


def fetch(opened: Opened) -> None:
    """Fetch what is not on the local disk yet, with a progress bar; nothing if the file is local."""
    if opened.remote is None:
        return
    with progress() as shown:
        bar = shown.add_task("fetching", total=opened.beton.size_bytes)
        for done_bytes in opened.remote.bring_all():
            shown.update(bar, completed=done_bytes)
