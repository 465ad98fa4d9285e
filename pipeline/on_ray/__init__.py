"""Ray as a thin layer: the worker context, the fit, the progress channel and a local cluster."""
