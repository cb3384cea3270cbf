#!/usr/bin/env bash
# Names everything the machine lacks for `make setup`, all at once; silent when nothing is missing.
set -euo pipefail

python="${1:-python3.11}"
problems=()

if [[ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]]; then
  problems+=("this is $(uname -s) $(uname -m): the locks are for Linux x86_64 (elsewhere: run inside a Linux x86_64 container)")
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
  problems+=("Python 3.11 as '$python': install python3.11 (Debian 12: apt-get install python3.11), or pass HOST_PYTHON=/path/to/python3.11")
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  problems+=("the venv module of $python: apt-get install python3.11-venv")
fi

java_major=0
if command -v java >/dev/null; then
  # "17.0.15" and "21" both begin with the major version.
  java_major="$(java -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p' | head -n 1)"
fi
if ((${java_major:-0} < 17)); then
  problems+=("Java 17 or newer: apt-get install openjdk-17-jre-headless")
fi

command -v mvn >/dev/null || problems+=("Maven, command mvn: apt-get install maven")
command -v g++ >/dev/null || [[ -n "${CXX:-}" ]] ||
  problems+=("a C++ compiler, command g++ or CXX (it builds the CPU kernels): apt-get install g++")
command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
  problems+=("a C compiler, command cc (Triton builds its launchers with it): apt-get install g++")

if ((${#problems[@]})); then
  echo "This machine lacks:" >&2
  printf '  - %s\n' "${problems[@]}" >&2
  exit 1
fi
