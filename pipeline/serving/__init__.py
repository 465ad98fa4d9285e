"""Enlarging as a service: an HTTP endpoint and a page over Ray Serve, within limits."""
