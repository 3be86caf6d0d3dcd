# Create a virtual environment and install this project into it. The scripts source this file.

# Print the name of a Python 3.11 or newer on the PATH.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if command -v "$name" >/dev/null 2>&1 &&
      "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: no Python 3.11 or newer on the PATH. Install one and run this again." >&2
  return 1
}

# make_environment FOLDER REQUIREMENT [pip arguments]: create or reuse an environment; show the log on failure.
# An editable installation is repeated only if pyproject.toml or the constraints changed; others always.
make_environment() {
  local folder=$1 requirement=$2 python stamp log editable=no
  shift 2
  local arguments=()
  for argument in "$@"; do
    if [ "$argument" = "-e" ]; then editable=yes; else arguments+=("$argument"); fi
  done
  python=$(find_python) || return 1
  [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
  stamp=$(cat "$here/pyproject.toml" "$here/scripts/constraints.txt" | cksum)
  if [ "$editable" = yes ]; then
    [ "$(cat "$folder/.installed" 2>/dev/null)" = "$stamp" ] && return 0
    arguments+=("-e")
  fi
  log="$folder/install.log"
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  if [ "$editable" = no ] && [ "$(cat "$folder/.installed" 2>/dev/null)" = "$stamp" ]; then
    # Dependencies are up to date: install the current sources only.
    arguments+=(--no-deps --force-reinstall)
  fi
  if ! "$folder/bin/python" -m pip install --quiet --no-cache-dir "${arguments[@]}" "$requirement" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: the installation failed; the full log is in $log" >&2
    return 1
  fi
  echo "$stamp" >"$folder/.installed"
}
