#!/usr/bin/env bash
# The MLflow server of infra/mlflow on one machine, without containers: PostgreSQL for the metadata, S3 for the
# artifacts, everything on loopback. Runs until it is ended, and ends PostgreSQL with it.
#
#   infra/mlflow/serve_here.sh FOLDER ARTIFACTS [MLFLOW_PORT [POSTGRES_PORT]]
#
#   FOLDER     keeps the database and the logs; made if need be, used again if it is there. Its full path has at most
#              some 75 characters, and PostgreSQL's user can enter the folders above it
#   ARTIFACTS  s3://bucket/prefix, or a folder
#
# From the environment: the S3 credentials and AWS_ENDPOINT_URL as boto3 reads them; PG_BIN, where PostgreSQL's
# programs are (Debian's place by default); PG_USER, who runs PostgreSQL if this is root (postgres by default);
# MLFLOW, the program; MLFLOW_ALLOWED_HOSTS, for clients that come through a proxy.
#
# PostgreSQL listens on a socket in FOLDER and on loopback, asks for a password, and finds it only in FOLDER/password,
# which its owner alone can read. Nothing is passed on a command line, where every user of the machine would see it.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
artifacts=$2
case $artifacts in
    *:/*) ;;
    *) mkdir -p "$artifacts" && artifacts=$(cd "$artifacts" && pwd) ;; # the server runs in FOLDER
esac
mlflow_port=${3:-5000}
postgres_port=${4:-5432}
socket=$folder/postgres/.s.PGSQL.$postgres_port
if [ "$(printf %s "$socket" | wc -c)" -gt 107 ]; then
    echo "error: PostgreSQL's socket $socket has more than the 107 bytes that Linux allows; choose a shorter FOLDER" >&2
    exit 2
fi
pg_bin=${PG_BIN:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)}
mlflow=${MLFLOW:-mlflow}

if ! [ -x "$pg_bin/initdb" ]; then
    echo "error: no PostgreSQL programs in '${pg_bin}'; install postgresql, or set PG_BIN" >&2
    exit 2
fi
if ! command -v "$mlflow" > /dev/null; then
    echo "error: no program '$mlflow'; activate the virtual environment, or set MLFLOW" >&2
    exit 2
fi

# PostgreSQL refuses to run as root, and gets nothing of this environment.
owner=(env -i PATH="$PATH" HOME="$folder/postgres" PGPASSFILE="$folder/postgres/pgpass")
if [ "$(id -u)" = 0 ]; then
    owner=(setpriv --reuid="${PG_USER:-postgres}" --regid="${PG_USER:-postgres}" --init-groups "${owner[@]}")
    if ! "${owner[@]}" test -x "$(dirname "$folder")"; then
        echo "error: the user '${PG_USER:-postgres}', who runs PostgreSQL, cannot enter $(dirname "$folder"); choose a FOLDER below" \
            "folders that are open to it, or chmod o+x them" >&2
        exit 2
    fi
fi

password_file=$folder/password
umask 077
exec 9> "$folder/.lock"
if ! flock --nonblock 9; then
    echo "error: $folder is served already; end that server first, or choose another FOLDER" >&2
    exit 2
fi
if ! [ -s "$password_file" ]; then
    head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$password_file.new"
    mv "$password_file.new" "$password_file"
fi
data=$folder/postgres/data
if ! [ -s "$data/ready" ]; then
    rm -rf "$folder/postgres"
    mkdir -p "$folder/postgres"
    cp "$password_file" "$folder/postgres/password"
    printf 'localhost:*:*:mlflow:%s\n' "$(cat "$password_file")" > "$folder/postgres/pgpass"
    if [ "$(id -u)" = 0 ]; then
        chown -R "${PG_USER:-postgres}" "$folder/postgres"
        chmod 711 "$folder"
    fi
    "${owner[@]}" "$pg_bin/initdb" --pgdata="$data" --username=mlflow --auth=scram-sha-256 \
        --pwfile="$folder/postgres/password" --encoding=UTF8 --locale=C > "$folder/initdb.log"
    fresh=yes
fi
set -m # each server is a process group of its own
"${owner[@]}" "$pg_bin/postgres" -D "$data" -p "$postgres_port" -c listen_addresses=localhost \
    -c unix_socket_directories="$folder/postgres" -c logging_collector=off >> "$folder/postgres.log" 2>&1 9>&- &
postgres=$!
server=
finish() {
    trap - EXIT INT TERM
    [ -z "$server" ] || kill -- "-$server" 2> /dev/null || true # with its workers
    [ -z "$server" ] || wait "$server" 2> /dev/null || true
    kill -INT "$postgres" 2> /dev/null || true # fast shutdown: open sessions are ended, the data is safe
    wait "$postgres" 2> /dev/null || true
}
trap finish EXIT
trap 'exit 143' INT TERM

for _ in $(seq 120); do
    "${owner[@]}" "$pg_bin/pg_isready" --quiet --host=localhost --port="$postgres_port" && break
    kill -0 "$postgres" 2> /dev/null || { echo "error: PostgreSQL did not start; see $folder/postgres.log" >&2; exit 1; }
    sleep 0.5
done
if [ "${fresh:-no}" = yes ]; then
    "${owner[@]}" "$pg_bin/createdb" --no-password --host=localhost --port="$postgres_port" --username=mlflow mlflow
    echo ready | "${owner[@]}" tee "$data/ready" > /dev/null
fi

# The database's password goes by the environment, which other users cannot read.
MLFLOW_BACKEND_STORE_URI="postgresql+psycopg2://mlflow:$(cat "$password_file")@localhost:$postgres_port/mlflow"
export MLFLOW_BACKEND_STORE_URI MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export MLFLOW_S3_ENDPOINT_URL=${MLFLOW_S3_ENDPOINT_URL:-${AWS_ENDPOINT_URL:-}}
[ -n "$MLFLOW_S3_ENDPOINT_URL" ] || unset MLFLOW_S3_ENDPOINT_URL
cd "$folder"
"$mlflow" server --host=127.0.0.1 --port="$mlflow_port" --artifacts-destination="$artifacts" --workers="${MLFLOW_WORKERS:-1}" \
    ${MLFLOW_ALLOWED_HOSTS:+--allowed-hosts="$MLFLOW_ALLOWED_HOSTS"} >> "$folder/mlflow.log" 2>&1 9>&- &
server=$!
echo "MLflow at http://127.0.0.1:$mlflow_port, artifacts in $artifacts; logs in $folder"
wait -n "$server" "$postgres" || true
echo "error: a server ended by itself; see $folder/mlflow.log and $folder/postgres.log" >&2
exit 1
