"""One promotion at a time, over all processes and hosts that share a registry.

MLflow can neither compare and set an alias nor lock anything. What it can do atomically is to create a registered
model, because names are unique in its database: whoever creates the model called NAME.promoting holds the lock, and
deletes it afterwards. It is held for a second, not while networks are compared.

A holder that was killed leaves the model behind. One that waits and sees the same holder for :data:`STALE_S` by its
own clock removes it. Two that remove it in the same instant may both believe to hold the lock; each therefore looks
again, before and after it moves an alias, whether the lock is still its own.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.config import LOCK_SUFFIX
from pipeline.errors import UserError

STALE_S = 30.0
_WAIT_S = 90.0
_OWNER = "anysr.owner"


class Lock:
    """Held by one process at a time."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self._client, self._name = client, f"{name}{LOCK_SUFFIX}"
        self._owner = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
        self._seen, self._since = "", 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it while the block runs.

        Raises:
            UserError: others held it for too long.
        """
        deadline = time.monotonic() + _WAIT_S
        while not self._create():
            if time.monotonic() > deadline:
                raise UserError(
                    f"another promotion has held {self._name} for {_WAIT_S:g} s; try again, or delete that registered "
                    "model if no promotion is running"
                )
            self._remove_stale()
            time.sleep(0.2)
        try:
            yield
        finally:
            with suppress(MlflowException, UserError):
                self.check()
                self._client.delete_registered_model(self._name)

    def check(self) -> None:
        """Make sure that it is still this process's.

        Raises:
            UserError: it is not.
        """
        if self._holder() != self._owner:
            raise UserError("another promotion took over; look at the champion, and try again")

    def _create(self) -> bool:
        try:
            self._client.create_registered_model(self._name, tags={_OWNER: self._owner})
            return True
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False

    def _remove_stale(self) -> None:
        holder, now = self._holder(), time.monotonic()
        if holder != self._seen:
            self._seen, self._since = holder, now
        if holder and now - self._since > STALE_S:
            with suppress(MlflowException):  # another was faster
                self._client.delete_registered_model(self._name)

    def _holder(self) -> str:
        try:
            return str(self._client.get_registered_model(self._name).tags.get(_OWNER, ""))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
