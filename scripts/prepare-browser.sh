#!/usr/bin/env bash
# Says where Chromium is; installs Debian's package where there is none, which needs root.
set -euo pipefail

find_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

if ! find_browser >/dev/null; then
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q --yes --no-install-recommends chromium >&2
fi
find_browser
