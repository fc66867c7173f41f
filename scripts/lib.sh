# shellcheck shell=bash
# What every script here shares; sourced, never run. Each script is `set -euo pipefail` and answers to --help with the
# comment at its top.
#
# One profile (release) and one target directory, outside the checkout: RocksDB is built once, and a fresh clone, the
# demo, the tests and CI all find it again. See docs/decisions/0004-one-profile-one-target-directory.md.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT" || exit 1

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${QUORATE_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/quorate/target}}"

# Notes go to stderr: stdout belongs to what was asked for.
say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Prints the comment at the top of the script that is running.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

# Answers --help, whoever asks, before anything is installed or built.
help_wanted() {
  local argument
  for argument in "$@"; do
    case $argument in
      -h | --help) usage; exit 0 ;;
      --) return 0 ;;
    esac
  done
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif have sudo; then sudo "$@"
  else die "this needs root, and there is no sudo. As root, run: $*"
  fi
}

need_rust() {
  if ! have cargo && [ -r "$HOME/.cargo/env" ]; then
    # shellcheck source=/dev/null
    . "$HOME/.cargo/env"
  fi
  have cargo || die "no cargo found. Install a Rust toolchain (rustup.rs, stable), then run this again."
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  found=$(cargo --version | awk '{print $2}')
  if [ "$(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1)" != "$wanted" ]; then
    die "Rust $wanted or newer is needed, this is $found. Run: rustup update stable"
  fi
}

# $1: what cargo calls it (fmt, clippy). $2: the rustup component.
need_component() {
  cargo "$1" --version >/dev/null 2>&1 && return
  have rustup || die "cargo $1 is missing. Install your distribution's package for $2."
  say "installing the Rust component $2"
  rustup component add "$2" >&2
}

# RocksDB's bindings are made with libclang, which clang-sys looks for in these places.
libclang_here() {
  local where
  if [ -n "${LIBCLANG_PATH:-}" ]; then return 0; fi
  if { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep -q 'libclang[-.0-9]*\.so'; then return 0; fi
  for where in /usr/lib/llvm-*/lib /usr/lib64 /usr/lib64/llvm*/lib /usr/local/lib \
    /Library/Developer/CommandLineTools/usr/lib /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib; do
    compgen -G "$where/libclang*.so*" >/dev/null && return 0
    compgen -G "$where/libclang.dylib" >/dev/null && return 0
  done
  return 1
}

# libclang alone does not know its own stddef.h: without clang's headers the bindings fail halfway.
clang_headers_here() {
  [ "$(uname -s)" != Linux ] || [ -n "${LIBCLANG_PATH:-}" ] || have clang ||
    compgen -G "/usr/lib*/clang/*/include/stddef.h" >/dev/null ||
    compgen -G "/usr/lib*/llvm*/lib*/clang/*/include/stddef.h" >/dev/null
}

cxx_here() { [ -n "${CXX:-}" ] || have c++ || have g++ || have clang++; }

# RocksDB is C++, built from its crate: a C and C++ compiler and libclang, no cmake and no make.
need_native() {
  local packages=()
  cxx_here && { have cc || have gcc || have clang || [ -n "${CC:-}" ]; } || packages+=(g++)
  libclang_here && clang_headers_here || packages+=(libclang-dev)
  if [ ${#packages[@]} -eq 0 ]; then return; fi
  if have apt-get; then
    say "installing ${packages[*]} (RocksDB needs it to build)"
    as_root apt-get update -qq >&2 || say "apt-get update failed; trying with the lists that are here"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
    # --no-install-recommends is enough: libclang-dev depends on clang's headers.
  elif have dnf; then
    die "RocksDB needs a C++ compiler and libclang to build. Run: sudo dnf install gcc-c++ clang-devel"
  elif have pacman; then
    die "RocksDB needs a C++ compiler and libclang to build. Run: sudo pacman -S gcc clang"
  elif have brew; then
    die "RocksDB needs a C++ compiler and libclang to build. Run: xcode-select --install && brew install llvm"
  else
    die "RocksDB needs a C++ compiler and libclang to build; install both, then run this again."
  fi
}

# The tests of the README run its curl lines; one test reads a trace of system calls.
need_test_tools() {
  local packages=() tool
  for tool in curl strace; do have "$tool" || packages+=("$tool"); done
  if [ ${#packages[@]} -eq 0 ]; then return; fi
  have apt-get || die "the tests need ${packages[*]}: install with your package manager, then run this again"
  say "installing ${packages[*]} (tests use it)"
  as_root apt-get update -qq >&2 || say "apt-get update failed; trying with the lists that are here"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
}

# A RUSTFLAGS variable replaces the flags of .cargo/config.toml silently; the simulation depends on one of them.
keep_rustflags() {
  local unit=$'\x1f'
  if [ -n "${CARGO_ENCODED_RUSTFLAGS:-}" ]; then
    case $CARGO_ENCODED_RUSTFLAGS in
      *tokio_unstable*) ;;
      *) export CARGO_ENCODED_RUSTFLAGS="$CARGO_ENCODED_RUSTFLAGS$unit--cfg${unit}tokio_unstable"
        say "note: added --cfg tokio_unstable to CARGO_ENCODED_RUSTFLAGS, which replaces .cargo/config.toml" ;;
    esac
  elif [ -n "${RUSTFLAGS:-}" ]; then
    case $RUSTFLAGS in
      *tokio_unstable*) ;;
      *) export RUSTFLAGS="$RUSTFLAGS --cfg tokio_unstable"
        say "note: added --cfg tokio_unstable to your RUSTFLAGS, which replace .cargo/config.toml" ;;
    esac
  fi
}

# Says what a stranger is about to wait for.
announce_build() {
  if ! compgen -G "$CARGO_TARGET_DIR/release/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; then
    say "first build: RocksDB is compiled once, about 8 minutes on two cores; later runs take it from"
    say "  $CARGO_TARGET_DIR   (QUORATE_TARGET_DIR chooses another place)"
  fi
}

# Cargo knows this package's sources by their times, not by where they lie: what another checkout built could pass for
# this one's. Only this package is built again; RocksDB and the other crates stay.
take_over_target() {
  local owner="$CARGO_TARGET_DIR/checkout"
  if [ "$(cat "$owner" 2>/dev/null || true)" = "$ROOT" ]; then return; fi
  if [ -d "$CARGO_TARGET_DIR/release" ]; then
    cargo clean --release --package quorate >&2 || say "note: what another checkout built could not be removed"
  fi
  printf '%s\n' "$ROOT" >"$owner"
}

# What all scripts that compile call first.
prepare() {
  need_rust
  keep_rustflags
  need_native
  mkdir -p "$CARGO_TARGET_DIR" || die "cannot write to $CARGO_TARGET_DIR; set QUORATE_TARGET_DIR to a place that can be written"
  take_over_target
}

# In CI the lock file is law; at a desk a changed Cargo.toml may update it.
locked() { if [ -n "${CI:-}" ]; then printf '%s\n' --locked; fi; }

# -- The checks that scripts/test and scripts/check share. None of them writes to the tree. --

check_scripts() {
  local file
  for file in .ci/run scripts/*; do bash -n "$file"; done
  if have shellcheck; then
    shellcheck --external-sources .ci/run scripts/*
  else
    say "shellcheck is not installed: only the syntax was checked"
  fi
}

check_format() {
  need_component fmt rustfmt
  cargo fmt --check
}

check_lints() {
  need_component clippy clippy
  # shellcheck disable=SC2046
  cargo clippy --release $(locked) --all-targets -- -D warnings
  # The library alone: pure Rust, data in memory, no C++.
  # shellcheck disable=SC2046
  cargo clippy --release $(locked) --no-default-features --all-targets -- -D warnings
}

check_docs() {
  # shellcheck disable=SC2046
  RUSTDOCFLAGS="-D warnings" cargo doc --release $(locked) --no-deps
}
