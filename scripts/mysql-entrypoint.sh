#!/bin/sh
# Entrypoint of the image that prepare-engine.sh makes: as much of the official image's as Testcontainers relies on.
set -eu

data=/var/lib/mysql
files=/var/lib/mysql-files
socket=/run/mysqld/mysqld.sock

quoted() {
  printf "'%s'" "$(printf %s "$1" | sed "s/[\\\\']/\\\\&/g")"
}

# One statement a line: that is all --init-file understands.
accounts() {
  root_password=$(quoted "$MYSQL_ROOT_PASSWORD")
  database=${MYSQL_DATABASE:+"\`$MYSQL_DATABASE\`"}
  user=${MYSQL_USER:+$(quoted "$MYSQL_USER")@"'%'"}
  cat <<SQL
ALTER USER root@localhost IDENTIFIED BY $root_password;
CREATE USER root@'%' IDENTIFIED BY $root_password;
GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;
${database:+CREATE DATABASE IF NOT EXISTS $database;}
${user:+CREATE USER $user IDENTIFIED BY $(quoted "${MYSQL_PASSWORD:-}");}
${user:+${database:+GRANT ALL ON $database.* TO $user;}}
SQL
}

case "${1:-}" in
  '' | -*) set -- mysqld "$@" ;;
esac
[ "$1" = mysqld ] || exec "$@"
shift

mkdir -p "$data" "$files" "${socket%/*}"
set -- --user=root --datadir="$data" --secure-file-priv="$files" --socket="$socket" --pid-file="$socket.pid" "$@"
if [ ! -d "$data/mysql" ]; then
  : "${MYSQL_ROOT_PASSWORD:?must be set to initialise $data}"
  (umask 077 && accounts >/run/accounts.sql)
  mysqld "$@" --initialize-insecure --init-file=/run/accounts.sql
  rm /run/accounts.sql
fi
exec mysqld "$@"
