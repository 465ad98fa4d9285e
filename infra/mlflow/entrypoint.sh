#!/bin/sh
# Reads the database's password from the file that the secret is mounted as, so that it stands on no command line.
# MLFLOW_UPGRADE=yes brings the database to this version's schema first; make a back-up before.
set -eu
password=$(cat "${PGPASSWORD_FILE:-/run/secrets/postgres_password}")
export MLFLOW_BACKEND_STORE_URI="postgresql+psycopg2://mlflow:$password@${PGHOST:-postgres}:5432/mlflow"
unset password
if [ "${MLFLOW_UPGRADE:-}" = yes ]; then
    python -c 'import os; from mlflow.db import upgrade; upgrade([os.environ["MLFLOW_BACKEND_STORE_URI"]], standalone_mode=False)'
fi
exec mlflow server --host=0.0.0.0 --port=5000 --workers="${MLFLOW_WORKERS:-2}" \
    --artifacts-destination="$ARTIFACTS" --allowed-hosts="${MLFLOW_ALLOWED_HOSTS:-mlflow:5000,mlflow.internal:5000,localhost:5000}"
