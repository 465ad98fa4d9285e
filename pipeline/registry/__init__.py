"""MLflow's model registry: which version ships, why, and what it was before."""
