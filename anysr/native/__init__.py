"""Compiled kernels for whole images, on CPUs and GPUs: optional, built at first use, same answers without them."""
