#!/usr/bin/env bash
# Unpacks a database server from Debian's packages into a cache folder and prints the path of a command that runs it.
# Nothing is installed. Usage: unpack-server.sh mysql|mariadb|galera, or unpack-server.sh mariadb RELEASE for the version of
# another release of Debian, such as trixie. galera is MariaDB with what its clusters need.
set -euo pipefail

server=${1:?usage: unpack-server.sh mysql|mariadb|galera [RELEASE]}
release=${2:-}
oldest_mysql=9.7
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/sequelize-lossless
tree=$cache/$server${release:+-$release}

say() { echo "unpack-server: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

quietly() {
  "$@" >"$downloads/log" 2>&1 || {
    tail -n 5 "$downloads/log" >&2
    fail "failed: $*"
  }
}

# Which mirror can be reached from here only apt knows.
debian_mirror() {
  apt-get indextargets --format '$(LABEL)|$(SITE)' 'Created-By: Packages' | sed -n '/^Debian|/{s///p;q;}'
}

# Downloads a package of a release, with all that it needs down to the C library.
download_of_release() {
  local mirror debootstrap=debootstrap package=$1 release=$2
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || {
    quietly apt-get update
    mirror=$(debian_mirror)
  }
  [ -n "$mirror" ] || fail 'apt knows no mirror of Debian'
  if ! command -v debootstrap >/dev/null; then
    (cd "$downloads" && quietly apt-get download debootstrap && dpkg-deb -x debootstrap_*.deb borrowed)
    export DEBOOTSTRAP_DIR=$downloads/borrowed/usr/share/debootstrap
    debootstrap=$downloads/borrowed/usr/sbin/debootstrap
  fi
  quietly "$debootstrap" --download-only --variant=minbase --include="$package" "$release" "$downloads/system" "$mirror"
  mv "$downloads"/system/var/cache/apt/archives/*.deb "$downloads"
}

download_mysql() { download_of_release mysql-server-core sid; }

download_mariadb() {
  if [ -n "$release" ]; then download_of_release "$(mariadb_package)" "$release"; else download_installable mariadb-server-core; fi
}

# Up to bullseye, the name of the package has the version.
mariadb_package() {
  case $release in
    bullseye) echo mariadb-server-core-10.5 ;;
    *) echo mariadb-server-core ;;
  esac
}

# rsync copies the data to a node that joins, by scripts that ask ss or lsof for its port.
download_galera() { download_installable mariadb-server mariadb-server-core galera-4 rsync lsof; }

download_installable() {
  local get=(apt-get install --yes --no-install-recommends --reinstall --download-only)
  # Without its lock, which guards nothing we write, apt-get works for every user.
  get+=(-o "Dir::Cache::archives=$downloads" -o Debug::NoLocking=true)
  mkdir "$downloads/partial"
  "${get[@]}" "$@" >"$downloads/log" 2>&1 || {
    quietly apt-get update
    quietly "${get[@]}" "$@"
  }
}

# The libraries of another release fit no other loader than their own.
wrap_with_loader() {
  sed "s/SERVER/$1/" <<'WRAPPER'
#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
for each in "$here"/usr/lib/*-linux-gnu*/ld-linux*.so.* "$here"/lib/*-linux-gnu*/ld-linux*.so.*; do
  [ ! -e "$each" ] || loader=$each
done
libraries=${loader%/*}
messages=$here/usr/share/mariadb
[ -d "$messages" ] || messages=$here/usr/share/mysql
exec "$loader" --library-path "$libraries:$here/usr/lib/${libraries##*/}" "$here/usr/sbin/SERVER" "$@" --basedir="$here/usr" \
  --plugin-dir="$here/usr/lib/mysql/plugin" --lc-messages-dir="$messages"
WRAPPER
}

wrap_mysql() { wrap_with_loader mysqld; }

wrap_mariadb() {
  [ -z "$release" ] || {
    wrap_with_loader mariadbd
    return
  }
  cat <<'WRAPPER'
#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
for libraries in "$here"/usr/lib/*-linux-gnu*; do :; done
LD_LIBRARY_PATH="$libraries" exec "$here/usr/sbin/mariadbd" "$@" --basedir="$here/usr" \
  --plugin-dir="$here/usr/lib/mysql/plugin" --lc-messages-dir="$here/usr/share/mysql"
WRAPPER
}

wrap_galera() {
  cat <<'WRAPPER'
#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
for libraries in "$here"/usr/lib/*-linux-gnu*; do :; done
export LD_LIBRARY_PATH="$libraries" PATH="$PATH:$here/usr/bin"
exec "$here/usr/sbin/mariadbd" "$@" --basedir="$here/usr" --wsrep-provider="$here/usr/lib/galera/libgalera_smm.so" \
  --plugin-dir="$here/usr/lib/mysql/plugin" --lc-messages-dir="$here/usr/share/mysql"
WRAPPER
}

case $server in
  mysql) command=mysqld ;;
  mariadb | galera) command=mariadbd ;;
  *) fail "unknown server: $server" ;;
esac

mkdir -p "$cache"
exec 9>"$tree.lock"
flock --nonblock 9 || {
  say "waiting for another run that unpacks $server"
  flock 9
}

if [ ! -d "$tree" ]; then
  command -v apt-get >/dev/null || fail 'needs apt-get: this is neither Debian nor Ubuntu'
  say "unpacking $server${release:+ of $release} from Debian's packages into $tree; nothing is installed, remove the folder when you like"
  downloads=$(mktemp -d /tmp/unpack-server.XXXXXX)
  trap 'rm -rf "$downloads"' EXIT
  "download_$server"
  # Only the holder of the lock uses this name, so a left-over is from a run that was killed.
  rm -rf "$tree.partial"
  mkdir "$tree.partial"
  for package in "$downloads"/*.deb; do dpkg-deb -x "$package" "$tree.partial"; done
  "wrap_$server" >"$tree.partial/$command"
  chmod +x "$tree.partial/$command"
  version=$("$tree.partial/$command" --no-defaults --version | sed 's/.*Ver \([0-9.]*\).*/\1/')
  say "got $server $version"
  [ "$server" != mysql ] || printf '%s\n' "$oldest_mysql" "$version" | sort -VC || fail "MySQL $oldest_mysql is the oldest that will do"
  mv "$tree.partial" "$tree"
fi
echo "$tree/$command"
