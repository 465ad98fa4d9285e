"""stand-in until the storage branch is merged."""

from __future__ import annotations

from pathlib import Path

from pipeline.files import write_text


class RunFolder:
    """x."""

    def __init__(self, storage: str, name: str, cache: Path | None) -> None:
        self.place = Path(storage) / name
        self.local = self.place

    def prepare(self, needed_bytes: int) -> None:
        """X."""
        self.local.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> str | None:
        """X."""
        p = self.local / name
        return p.read_text() if p.exists() else None

    def write(self, name: str, text: str) -> None:
        """X."""
        write_text(self.local / name, text)

    def send(self, *files: Path) -> None:
        """X."""

    def shown(self, file: Path) -> str:
        """X."""
        return str(self.place / file.name)
