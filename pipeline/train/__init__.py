"""The training loop in plain Python, against a small worker context that Ray is one implementation of."""
