"""Files wherever they lie: plain paths, ``file:`` and ``s3://``, for data sets, checkpoints, models and reports."""
