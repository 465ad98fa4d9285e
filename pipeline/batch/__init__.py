"""Many images enlarged by many workers: which, where to, which are done, and which failed."""
