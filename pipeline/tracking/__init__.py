"""Metrics, artifacts and the model registry. Only the mlflow_* modules import MLflow."""
