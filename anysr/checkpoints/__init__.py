"""Reading the files that LIIF, SRNO, AnySR, LIIF's Meta-SR and ArbSR released."""

from anysr.checkpoints.released import is_pickle, load_released

__all__ = ["is_pickle", "load_released"]
