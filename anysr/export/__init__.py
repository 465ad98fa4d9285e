"""Networks as files for other runtimes: ONNX, torch.export, standalone subnets. Needs the extra ``export``."""

from anysr.export.write import Format, export_file, export_folder

__all__ = ["Format", "export_file", "export_folder"]
