"""A picture in, its enlargement out, within a budget: what the command line, batches and services share."""

from anysr.upscaling.file_to_file import FileOptions, decode, enlarge_file, enlarge_picture
from anysr.upscaling.limits import BudgetError, Limits
from anysr.upscaling.plan import Plan, Request
from anysr.upscaling.targets import Enlargement
from anysr.upscaling.upscaler import Result, Upscaler

__all__ = [
    "BudgetError",
    "Enlargement",
    "FileOptions",
    "Limits",
    "Plan",
    "Request",
    "Result",
    "Upscaler",
    "decode",
    "enlarge_file",
    "enlarge_picture",
]
