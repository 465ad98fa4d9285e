"""Model files by name: a path, an object on S3, or a version of the registry such as ``models:/anysr@champion``."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from pathlib import Path

from pipeline.errors import UserError, one_line
from pipeline.storage.cache import cache_root, local_copy
from pipeline.storage.places import Place
from pipeline.storage.transfer import upload

_SCHEME = "models:/"
_FORMS = "write a path, s3://bucket/key, models:/NAME@ALIAS or models:/NAME/VERSION"


def resolve_model(uri: str, tracking_uri: str | None = None) -> Path:
    """The model file that ``uri`` names; from elsewhere it is fetched once, into the cache folder.

    Args:
        uri: a path, ``s3://bucket/key``, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``models:/NAME/latest``.
        tracking_uri: the registry; None is $MLFLOW_TRACKING_URI, else mlflow.db in the working folder.

    Raises:
        UserError: no such file, model, alias or version; or the registry does not answer.
    """
    if not uri.startswith(_SCHEME):
        path = local_copy(uri)
        if not path.is_file():
            raise UserError(f"no model file at {uri}; {_FORMS}")
        return path
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(f"{uri} lies in MLflow's registry, which is not installed: pip install 'anysr[train]'")
    from pipeline.registry.versions import open_registry

    name, reference = _parts(uri)
    registry = open_registry(name, tracking_uri)
    version = registry.find(reference)
    # Numbers are given again once a model is deleted: the time of creation tells the versions apart.
    key = hashlib.sha256(f"{registry.uri} {name} {version.number} {version.created_ms}".encode()).hexdigest()[:16]
    target = cache_root() / "models" / f"{name}-{version.number}-{key}.safetensors"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as temporary:
            try:
                registry.fetch(version, Path(temporary)).replace(target)
            except OSError as error:
                raise UserError(f"cannot keep {uri} in {target.parent}: {one_line(error)}; set ANYSR_CACHE") from error
    return target


def export_model(uri: str, target: Place, tracking_uri: str | None = None) -> None:
    """Copy the model file that ``uri`` names to ``target``, here or on S3, whole or not at all.

    Raises:
        UserError: see :func:`resolve_model`; or ``target`` cannot be written.
    """
    source = resolve_model(uri, tracking_uri)
    try:
        upload(source, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose another file") from error


def _parts(uri: str) -> tuple[str, str]:
    """Name, and an alias with its @ or a version's number."""
    rest = uri.removeprefix(_SCHEME)
    name, at, alias = rest.partition("@")
    if at:
        reference = f"@{alias}"
    else:
        name, _, reference = rest.partition("/")
        reference = "@latest" if reference == "latest" else reference
    if not name or "/" in name or reference in ("", "@") or not (reference[0] == "@" or reference.isdecimal()):
        raise UserError(f"{uri!r} names no version of a model; {_FORMS}")
    return name, reference
