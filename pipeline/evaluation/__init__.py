"""Scores of networks on suites of images, one row each, under named protocols."""
