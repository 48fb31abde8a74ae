#!/usr/bin/env bash
# Gives Testcontainers a Docker engine that has the image mysql:9.7, on a Debian machine that reaches no image registry.
# Run it as root; what is already there is left as it is.
set -euo pipefail

scripts=$(dirname "$(readlink -f "$0")")
image=mysql:9.7
engine_log=${XDG_RUNTIME_DIR:-/tmp}/sequelize-lossless-dockerd.log
engine_pid=${engine_log%.log}.pid
patience=30

say() { echo "prepare-engine: $*"; }

engine_answers() { docker info >/dev/null 2>&1; }

install_missing() {
  local missing=()
  command -v dockerd >/dev/null && command -v docker >/dev/null || missing+=(docker.io)
  command -v debootstrap >/dev/null || missing+=(debootstrap)
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q --yes --no-install-recommends "${missing[@]}"
}

start_engine() {
  if engine_answers; then
    say 'the engine answers'
    return
  fi
  say "starting dockerd, log in $engine_log"
  setsid dockerd --pidfile "$engine_pid" >"$engine_log" 2>&1 </dev/null &
  local dockerd=$! deadline=$((SECONDS + patience))
  until engine_answers; do
    if ! kill -0 "$dockerd" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
      tail -n 20 "$engine_log"
      say "dockerd did not come up in $patience s"
      exit 1
    fi
    sleep 0.2
  done
}

make_image() {
  local tree
  tree=$(dirname "$("$scripts/unpack-server.sh" mysql)")
  # Packages which are unpacked but not configured leave out the accounts.
  tar -c \
    --transform 's|^passwd.master$|etc/passwd|' \
    --transform 's|^group.master$|etc/group|' \
    --transform 's|^mysql-entrypoint.sh$|usr/local/bin/mysql-entrypoint.sh|' \
    -C "$tree" . \
    -C "$tree/usr/share/base-passwd" passwd.master group.master \
    -C "$scripts" mysql-entrypoint.sh |
    docker import \
      --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin' \
      --change 'ENTRYPOINT ["mysql-entrypoint.sh"]' \
      --change 'CMD ["mysqld"]' \
      --change 'EXPOSE 3306' \
      - "$image"
}

install_missing
start_engine
if docker image inspect "$image" >/dev/null 2>&1; then
  say "$image is there"
elif docker pull -q "$image" 2>/dev/null; then
  say "pulled $image"
else
  say "$image cannot be pulled: making it from Debian's packages"
  make_image
fi
docker image ls "$image"
