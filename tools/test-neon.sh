#!/bin/sh
# Runs tests as aarch64 code under qemu, so that the NEON kernels are tested on any Linux machine: those of the codec, or
# of the crate that CRATE names (CRATE=netweight-kernels-cpu takes minutes).
#
# Needs a Rust compiler with the aarch64 standard library, a cross linker and qemu. As root on Debian 12 it
# installs what is missing by apt (the Debian package of the compiler brings the library that goes with it).
# Prints `skipped: no aarch64 toolchain` where that cannot be had; REQUIRE_NEON=1 makes that a failure.
# PROPTEST_CASES sets the number of cases of property tests that do not say it themselves, 16 by default.
# Arguments go to the test binary.
set -eu
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
linker=aarch64-linux-gnu-gcc
qemu=qemu-aarch64-static
debian_rustc=/usr/bin/rustc

has_std() { # compiler
    command -v "$1" >/dev/null 2>&1 &&
        ls "$("$1" --print target-libdir --target $target 2>/dev/null)"/libstd-*.rlib >/dev/null 2>&1
}

find_rustc() {
    for rustc in "${RUSTC:-rustc}" $debian_rustc; do
        if has_std "$rustc"; then
            echo "$rustc"
            return
        fi
    done
}

is_complete() {
    command -v $linker >/dev/null && command -v $qemu >/dev/null && [ -n "$(find_rustc)" ]
}

install_missing() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    echo "installing an aarch64 toolchain" >&2
    export DEBIAN_FRONTEND=noninteractive
    {
        apt-get update
        apt-get install -y --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
        if [ -z "$(find_rustc)" ]; then
            dpkg --add-architecture arm64
            apt-get update
            apt-get install -y --no-install-recommends rustc-web libstd-rust-web-dev:arm64
        fi
    } >&2 || true
}

is_complete || install_missing
if ! is_complete; then
    echo "skipped: no aarch64 toolchain"
    [ "${REQUIRE_NEON:-0}" != 1 ]
    exit
fi

RUSTC=$(find_rustc)
export RUSTC
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/neon}"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$linker
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$qemu
# Static, because a dynamic loader and a C library of two packages need not fit each other.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
export PROPTEST_CASES="${PROPTEST_CASES:-16}"
exec cargo test -p "${CRATE:-netweight-codec}" --lib --target $target -- "$@"
