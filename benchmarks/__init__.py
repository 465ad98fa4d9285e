"""One script a question; results as CSV with hardware, versions and commit."""
