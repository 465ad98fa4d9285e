"""S3 as Ray Train's storage, through ``pipeline.storage``.

Ray would take pyarrow's own client, which gives up after six seconds without a server, whatever it
is told: a retry strategy does not travel to other processes. Directories are prefixes of keys.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from pipeline.storage import s3
from pipeline.storage.places import S3Uri


def s3_filesystem() -> Any:
    """A filesystem of paths ``bucket/key`` that can be sent to other processes; it carries no credentials."""
    return PyFileSystem(_Handler())


class _Handler(FileSystemHandler):  # type: ignore[misc] # pyarrow is half annotated
    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handler)

    def __hash__(self) -> int:
        return hash(_Handler)

    def get_type_name(self) -> str:
        return "anysr-s3"

    def normalize_path(self, path: str) -> str:
        return path.strip("/")

    def get_file_info(self, paths: list[str]) -> list[Any]:
        return [_info(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[Any]:
        base = _uri(selector.base_dir)
        objects = s3.list_objects(base)
        if not objects and not selector.allow_not_found:
            raise FileNotFoundError(str(base))
        found: dict[str, Any] = {}
        for one in objects:
            *folders, name = one.uri.key.removeprefix(f"{base.key}/").split("/")
            path = str(selector.base_dir).strip("/")
            for folder in folders[: None if selector.recursive else 1]:
                path = f"{path}/{folder}"
                found[path] = FileInfo(path, FileType.Directory)
            if selector.recursive or not folders:
                found[f"{path}/{name}"] = FileInfo(f"{path}/{name}", FileType.File, size=one.size)
        return list(found.values())

    def create_dir(self, path: str, recursive: bool) -> None:
        pass

    def delete_dir(self, path: str) -> None:
        self.delete_dir_contents(path, True)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        objects = s3.list_objects(_uri(path))
        if not objects and not missing_dir_ok:
            raise FileNotFoundError(path)
        for one in objects:
            s3.delete(one.uri)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("a whole account's buckets are not deleted")

    def delete_file(self, path: str) -> None:
        s3.delete(_uri(path))

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        s3.delete(_uri(src))

    def copy_file(self, src: str, dest: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            s3.download_file(_uri(src), file)
            s3.upload_file(file, _uri(dest))

    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> Any:
        if s3.describe(_uri(path)) is None:
            raise FileNotFoundError(path)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            s3.download_file(_uri(path), file)
            return pa.PythonFile(file.open("rb"), mode="r")  # the open file outlives its name

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return pa.PythonFile(_Upload(_uri(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError("S3 objects are replaced as a whole")


class _Upload:
    """Collects what is written, and stores it when it is closed."""

    def __init__(self, uri: S3Uri) -> None:
        self._uri = uri
        self._file = tempfile.NamedTemporaryFile(prefix="anysr-upload-")  # noqa: SIM115

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if self.closed:
            return
        with self._file:
            self._file.flush()
            s3.upload_file(Path(self._file.name), self._uri)


def _uri(path: str) -> S3Uri:
    bucket, _, key = path.strip("/").partition("/")
    return S3Uri(bucket, key)


def _info(path: str) -> Any:
    uri = _uri(path)
    one = s3.describe(uri) if uri.key else None
    if one is not None:
        return FileInfo(path, FileType.File, size=one.size)
    return FileInfo(path, FileType.Directory if s3.list_objects(uri) else FileType.NotFound)
