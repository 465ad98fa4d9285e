"""Where MLflow is, for what gets by without MLflow itself."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipeline.errors import SECRET_QUERY_KEYS
from pipeline.listening import check_listening

_DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}  # and the ports that they listen at by default


def uri_or_default(given: str | None, folder: Path = Path()) -> str:
    """``given``, else $MLFLOW_TRACKING_URI, else the database mlflow.db in ``folder``."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve()}/mlflow.db"


def stripped(uri: str) -> str:
    """The URI without its password, wherever it stands; a server's also without the name, which goes with it."""
    parts = urlsplit(uri)
    netloc = parts.netloc
    if parts.password:
        credentials, _, host = netloc.rpartition("@")
        netloc = host if parts.scheme.startswith("http") else f"{credentials.partition(':')[0]}@{host}"
    pairs = parts.query.split("&")
    query = "&".join(pair for pair in pairs if pair.partition("=")[0].lower() not in SECRET_QUERY_KEYS)
    unchanged = (netloc, query) == (parts.netloc, parts.query)
    return uri if unchanged else urlunsplit(parts._replace(netloc=netloc, query=query))


def is_database_server(uri: str) -> bool:
    """Whether it is a database that is neither a file nor behind an MLflow server."""
    return urlsplit(uri).scheme.partition("+")[0] in _DATABASES


def check_database(uri: str) -> None:
    """Return if its server listens, or it is no database server; MLflow itself would try for two minutes.

    Raises:
        ConnectionError: it does not.
    """
    parts = urlsplit(uri)
    # A list of hosts, or a socket in the query, is left to the client.
    if is_database_server(uri) and parts.hostname and "," not in parts.netloc:
        check_listening(parts.hostname, parts.port or _DATABASES[parts.scheme.partition("+")[0]])


def local_database(uri: str) -> Path | None:
    """The SQLite file behind a tracking URI, if it is one."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
