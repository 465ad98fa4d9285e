"""The versions of one registered model, their aliases and their tags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config import LOCK_SUFFIX
from pipeline.errors import UserError, one_line, without_secrets
from pipeline.tracking.mlflow_run import with_password, without_password
from pipeline.tracking.uri import check_database, local_database, uri_or_default
from pipeline.train.state import MODEL_FILE

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        number: as in ``models:/NAME/NUMBER``.
        created_ms: when it was registered, milliseconds since 1970.
        run_id: the MLflow run that made it.
        aliases: those that name it, in alphabetical order.
        tags: what was recorded of it.
    """

    number: int
    created_ms: int
    run_id: str | None
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


class Registry:
    """One registered model at one tracking server.

    Attributes:
        uri: the server or database, without a password.
        name: of the registered model.
        client: MLflow's own, for what this class lacks.
    """

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name = uri, name
        with self.answering():
            check_database(uri)
            self.client = MlflowClient(with_password(uri))

    def versions(self) -> list[Version]:
        """All versions, the oldest first."""
        with self.answering():
            aliases = self._aliases()
            found = self.client.search_model_versions(f"name = '{self.name}'", max_results=1000)
            return sorted((_version(one, aliases) for one in found), key=lambda version: version.number)

    def find(self, reference: str) -> Version:
        """The version of a number ("3") or an alias ("@champion", "champion").

        Raises:
            UserError: there is none; those that exist are named.
        """
        version = self.get(reference)
        if version is None:
            raise UserError(f"{self._uri_of(reference)} does not exist at {self.uri}; {self._existing()}")
        return version

    def get(self, reference: str) -> Version | None:
        """As :meth:`find`; None where there is none."""
        with self.answering():
            try:
                if reference.isdecimal():
                    found = self.client.get_model_version(self.name, reference)
                else:
                    found = self.client.get_model_version_by_alias(self.name, reference.removeprefix("@"))
                return _version(found, self._aliases())
            except MlflowException as error:
                if error.error_code not in _ABSENT:
                    raise
                return None

    def set_alias(self, alias: str, version: Version) -> None:
        """Let an alias name a version."""
        with self.answering():
            self.client.set_registered_model_alias(self.name, alias, str(version.number))

    def fetch(self, version: Version, folder: Path) -> Path:
        """Download the version's model file into a folder; returns the file.

        Raises:
            UserError: it is gone, or the place where it lies does not answer.
        """
        with self.answering():
            source = self.client.get_model_version_download_uri(self.name, str(version.number))
        file = f"{source}/artifacts/{MODEL_FILE}"
        named = f"the model file of models:/{self.name}/{version.number}"
        try:
            return Path(
                mlflow.artifacts.download_artifacts(file, dst_path=str(folder), tracking_uri=with_password(self.uri))
            )
        except Exception as error:  # MLflow's stores raise kinds of their own
            reason = one_line(error).rpartition("##### ")[2]  # MLflow's, of the one file of its list
            raise UserError(
                f"{named} cannot be fetched from {without_secrets(file)} ({reason[:200]}); bring it back, or name "
                "another version"
            ) from None

    def _aliases(self) -> dict[str, str]:
        # MLflow shows aliases on the registered model alone.
        return dict(self.client.get_registered_model(self.name).aliases)

    def _uri_of(self, reference: str) -> str:
        return f"models:/{self.name}" + (
            f"/{reference}" if reference.isdecimal() else f"@{reference.removeprefix('@')}"
        )

    def _existing(self) -> str:
        versions = self.versions()
        if not versions:
            return "no version is registered: train one, or name another registry in MLFLOW_TRACKING_URI"
        shown = [", ".join([str(one.number), *(f"@{alias}" for alias in one.aliases)]) for one in versions[-10:]]
        return f"registered: {'; '.join(shown)}"

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turn what the client raises while the block runs into one line.

        Raises:
            UserError: there is no such model, whose names are told; or the server or database cannot be used.
        """
        try:
            yield
        except (MlflowException, SQLAlchemyError, ConnectionError) as error:
            if getattr(error, "error_code", "") == _ABSENT[0]:
                raise UserError(
                    f"{one_line(error)[:200]} at {self.uri}; {self._models()}, or name another registry in "
                    "MLFLOW_TRACKING_URI"
                ) from None
            mend = "start the server" if self.uri.startswith("http") else "see to the database"
            raise UserError(
                f"the registry at {self.uri} cannot be used ({one_line(error)[:200]}); {mend}, or correct "
                "MLFLOW_TRACKING_URI"
            ) from None

    def _models(self) -> str:
        try:
            names = [model.name for model in self.client.search_registered_models(max_results=20)]
        except (MlflowException, SQLAlchemyError):
            names = []
        names = [name for name in names if not name.endswith(LOCK_SUFFIX)]
        return f"models there: {', '.join(names)}" if names else "no model is registered there: train one"


def open_registry(name: str, tracking_uri: str | None = None) -> Registry:
    """The registered model ``name`` at ``tracking_uri``, else $MLFLOW_TRACKING_URI, else mlflow.db here.

    Raises:
        UserError: a database file that is not there; MLflow would make an empty one.
    """
    uri = uri_or_default(tracking_uri)
    database = local_database(uri)
    if database is not None and not database.is_file():
        raise UserError(f"there is no MLflow database {database}; go to its folder, or set MLFLOW_TRACKING_URI")
    return Registry(without_password(uri), name)


def _version(found: ModelVersion, aliases: dict[str, str]) -> Version:
    mine = sorted(alias for alias, number in aliases.items() if str(number) == str(found.version))
    return Version(int(found.version), found.creation_timestamp, found.run_id, tuple(mine), dict(found.tags))
