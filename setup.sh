#!/usr/bin/env bash
# Makes the environment in .venv, once: `bash setup.sh`. A second call sees that nothing changed and returns at once.
# MMNET_PYTHON: the Python to use (3.11 to 3.13). MMNET_DEV=1: the tools of the tests as well. MMNET_CLUSTER=1: what a Ray cluster needs.
set -euo pipefail
cd "$(dirname "$0")"

fail() { echo "setup: $1" >&2; exit 1; }

wanted=(requirements.txt)
[ "${MMNET_DEV:-0}" = 1 ] && wanted+=(requirements-dev.txt)
[ "${MMNET_CLUSTER:-0}" = 1 ] && wanted+=(requirements-cluster.txt)
stamp=.venv/installed.sum
# one line a file: an environment with the tests' tools also serves those who do not want them
for file in "${wanted[@]}"; do
  grep -qsFx "$(cksum "$file")" "$stamp" || missing=1
done
if [ -z "${missing:-}" ] && [ -x .venv/bin/python ]; then exit 0; fi

python=${MMNET_PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      python=$candidate; break
    fi
  done
  [ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 found; install one, or name it: MMNET_PYTHON=/path/to/python3.11"
fi
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  || fail "$python is $("$python" --version 2>&1 || true); Python 3.11, 3.12 or 3.13 is needed: set MMNET_PYTHON"

free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
[ "$free" -ge "${MMNET_NEEDS_MIB:-4000}" ] || fail "$free MiB free on this disk, about 4000 are needed (10000 with CUDA); free some space"

if [ ! -x .venv/bin/python ]; then
  "$python" -m venv .venv 2>/tmp/mmnet-venv.$$ || fail "cannot make .venv: $(tail -n 1 /tmp/mmnet-venv.$$) (on Debian: apt-get install python3-venv)"
fi
echo "setup: installing ${wanted[*]} into .venv, a few minutes"
log=.venv/install.log
for file in "${wanted[@]}"; do
  if ! .venv/bin/python -m pip install --disable-pip-version-check --quiet -r "$file" >"$log" 2>&1; then
    if grep -qiE 'no space left' "$log"; then fail "the disk ran full while installing; free some space and run setup.sh again"; fi
    if grep -qiE 'connection|resolve|timed out|network|retries' "$log"; then fail "the package index cannot be reached; check the network (or PIP_INDEX_URL) and run setup.sh again"; fi
    fail "pip failed: $(grep -E '^ERROR' "$log" | tail -n 1) (whole log: $log)"
  fi
  cksum "$file" >>"$stamp"
done
rm -f /tmp/mmnet-venv.$$
echo "setup: done"
