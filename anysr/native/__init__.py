"""Compiled kernels for whole images on the CPU: optional, built at first use, same answers without them."""
