"""The training system: configuration, data, the training loop, tracking, and Ray as a thin layer."""
