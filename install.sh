#!/usr/bin/env bash
# Installs twinshare from this checkout: what it needs from the system, a Rust toolchain where none is new enough, the
# build, and the one binary. Runs as root or as an ordinary user; running it again brings everything up to date.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: ./install.sh [OPTIONS]

Installs twinshare from this checkout on Debian 12, Ubuntu 24.04 or a later release of either.

Options:
  --demo                  run `twinshare demo` when everything is installed
  --prefix DIR            install DIR/bin/twinshare (default: /usr/local as root, ~/.local otherwise)
  --skip-system-deps      install no system packages; say what is missing instead
  --skip-service-install  accepted for scripts; no service is installed either way
  --non-interactive       ask nothing; fail and say what is missing where a question would be needed
  --help                  show this text

As an ordinary user, steps that need root are shown first and run with sudo only after a yes.
TEXT
}

say() { printf '==> %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# = 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

# --- options ---------------------------------------------------------------------------------------------------------

demo=false system_deps=true interactive=true prefix=
while [ $# -gt 0 ]; do
    case $1 in
        --demo) demo=true ;;
        --skip-system-deps) system_deps=false ;;
        --skip-service-install) ;;
        --non-interactive) interactive=false ;;
        --prefix)
            [ $# -ge 2 ] || die "--prefix needs a directory"
            prefix=$2
            shift
            ;;
        --prefix=*) prefix=${1#--prefix=} ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) die "unknown option $1" "./install.sh --help lists them" ;;
    esac
    shift
done

is_root() { [ "$(id -u)" = 0 ]; }

if [ -z "$prefix" ]; then
    if is_root; then prefix=/usr/local; else prefix=$HOME/.local; fi
fi
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")"
[ -d cli ] || die "this script installs from a checkout of twinshare, and lies outside of one"
[ -t 0 ] || interactive=false

# --- privileged steps --------------------------------------------------------------------------------------------------

# as_root WHY SHOWN COMMAND...: runs the command directly as root; as a user shows it in the words of SHOWN, asks, and
# uses sudo.
as_root() {
    local why=$1 shown=$2 answer
    shift 2
    if is_root; then
        "$@"
        return
    fi
    if ! $interactive || ! command -v sudo >/dev/null; then
        die "$why needs root. Run this as root, then start ./install.sh again:" "$shown"
    fi
    printf '\n%s needs root. This would run as root:\n\n    %s\n\n' "$why" "$shown"
    read -r -p "Run it now? [y/N] " answer
    case $answer in
        y | Y | yes) sudo "$@" ;;
        *) die "$why was declined" "Run the command yourself, then start ./install.sh again." ;;
    esac
}

# --- system packages ---------------------------------------------------------------------------------------------------

# Lines of "command package". The Rust toolchain needs a C compiler to link, and bundled SQLite and zstd need it to build.
needed_commands() {
    echo "cc build-essential"
    echo "fusermount3 fuse3"
    echo "bwrap bubblewrap"
    if $demo; then echo "/usr/bin/python3 python3"; fi
    if ! usable_cargo >/dev/null; then echo "curl curl"; fi
}

missing_packages() {
    local command package
    {
        while read -r command package; do
            PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || echo "$package"
        done < <(needed_commands)
        # Certificates, without which neither rustup nor cargo can fetch anything.
        [ -s /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
        if $demo && ! /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null; then echo python3-venv; fi
    } | sort -u
}

install_packages() {
    local packages
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -gt 0 ] || return 0
    if ! $system_deps; then
        case " ${packages[*]} " in
            *" build-essential "*) die "a C compiler is missing (package build-essential), and --skip-system-deps was given" ;;
        esac
        warn "missing packages, skipped as asked: ${packages[*]}"
        return 0
    fi
    command -v apt-get >/dev/null ||
        die "this system has no apt-get" "Install the equivalents of: ${packages[*]}" "and start again with --skip-system-deps."
    say "installing ${packages[*]}"
    as_root "Installing system packages" \
        "apt-get update && apt-get install -y --no-install-recommends ${packages[*]}" \
        sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"' \
        sh "${packages[@]}"
}

# --- Rust --------------------------------------------------------------------------------------------------------------

rust_wanted() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml; }

# version_at_least HAVE WANT
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# The first cargo whose compiler is new enough: on PATH, or where rustup puts it.
usable_cargo() {
    local cargo have
    for cargo in "$(command -v cargo || true)" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo"; do
        [ -x "$cargo" ] || continue
        have=$("$(dirname "$cargo")/rustc" --version 2>/dev/null | cut -d ' ' -f 2) || continue
        if [ -n "$have" ] && version_at_least "$have" "$(rust_wanted)"; then
            echo "$cargo"
            return 0
        fi
    done
    return 1
}

install_rust() {
    local wanted script rustup
    wanted=$(rust_wanted)
    say "no Rust $wanted or newer here: installing it with rustup into ${CARGO_HOME:-$HOME/.cargo}"
    rustup=$(PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin command -v rustup || true)
    if [ -n "$rustup" ]; then
        # The user's default stays as it is.
        "$rustup" toolchain install stable --profile minimal --no-self-update && export RUSTUP_TOOLCHAIN=stable && return 0
    fi
    command -v curl >/dev/null || die "curl is missing, and with it rustup cannot be fetched (package curl)"
    script=$scratch/rustup.sh
    if ! curl --proto '=https' --tlsv1.2 --silent --show-error --fail --location --max-time 120 \
        https://sh.rustup.rs --output "$script"; then
        die "rustup cannot be fetched from https://sh.rustup.rs" \
            "Install Rust $wanted or newer some other way (https://rust-lang.org/tools/install), so that cargo is on PATH," \
            "and start ./install.sh again."
    fi
    sh "$script" -y --profile minimal --default-toolchain stable --no-modify-path ||
        die "rustup could not install a toolchain; its messages are above" "Start ./install.sh again when that is solved."
}

# --- build and install -------------------------------------------------------------------------------------------------

build() {
    say "building (a few minutes the first time)"
    PATH=$(dirname "$cargo"):$PATH "$cargo" build --release --locked --package twinshare --target-dir "$target"
}

# Where the build has put it: a target named in cargo's configuration or environment adds a directory.
built_binary() {
    local built newest=
    for built in "$target/release/twinshare" "$target"/*/release/twinshare; do
        if [ -f "$built" ] && { [ -z "$newest" ] || [ "$built" -nt "$newest" ]; }; then newest=$built; fi
    done
    [ -n "$newest" ] || die "cargo has built no release/twinshare below $target" \
        "Look for a build.target in cargo's configuration, and start ./install.sh again."
    printf '%s\n' "$newest"
}

# By rename, so that a running twinshare keeps its own file.
install_binary() {
    local built
    built=$(built_binary)
    if ! mkdir -p "$prefix/bin" 2>/dev/null || [ ! -w "$prefix/bin" ]; then
        die "$prefix/bin is not writable for $(id -un)" "Choose another place with --prefix DIR, or run as root."
    fi
    install -m 755 "$built" "$prefix/bin/.twinshare.new"
    # Two thirds of it are line numbers for developers, who have them in the build; without strip they stay.
    strip --strip-debug "$prefix/bin/.twinshare.new" 2>/dev/null || true
    mv -f "$prefix/bin/.twinshare.new" "$prefix/bin/twinshare"
    say "installed $prefix/bin/twinshare ($("$prefix/bin/twinshare" --version))"
    if "$prefix/bin/twinshare" p2p status >/dev/null 2>&1; then
        say "your node still runs the version it was started with; mounts stay: twinshare p2p stop && twinshare p2p start"
    fi
    case :$PATH: in
        *:"$prefix/bin":*) ;;
        *) warn "$prefix/bin is not on your PATH; add it: export PATH=\"$prefix/bin:\$PATH\"" ;;
    esac
}

# --- the kernel's side ---------------------------------------------------------------------------------------------------

check_fuse() {
    if [ ! -e /dev/fuse ]; then
        warn "this machine has no /dev/fuse, so nothing can be mounted (as root: modprobe fuse)"
    elif [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
        warn "/dev/fuse is not open to $(id -un), so mounting will fail (as root: chmod 666 /dev/fuse)"
    fi
}

# Ubuntu since 23.10 lets only programs with an AppArmor profile make user namespaces, which `twinshare run` needs as an
# ordinary user. The profile confines nothing; what twinshare starts inherits it.
install_apparmor_profile() {
    local knob=/proc/sys/kernel/apparmor_restrict_unprivileged_userns profile=/etc/apparmor.d/twinshare
    [ -r $knob ] && [ "$(cat $knob)" = 1 ] || return 0
    if [ -f "$profile" ] && [ "$(apparmor_profile)" = "$(cat "$profile")" ]; then return 0; fi
    case $prefix in
        *[][\"{}*?^@,]*)
            warn "AppArmor's profiles cannot name $prefix/bin/twinshare: choose a --prefix of plain letters, or \`twinshare run\` needs root"
            return 0
            ;;
    esac
    if ! $system_deps; then
        warn "AppArmor keeps ordinary users from making user namespaces here; without a profile \`twinshare run\` needs root"
        return 0
    fi
    say "installing an AppArmor profile, so that ordinary users may run environments in namespaces"
    apparmor_profile >"$scratch/twinshare"
    # shellcheck disable=SC2016 # the inner shell expands them
    as_root "Installing an AppArmor profile" \
        "install -m 644 $scratch/twinshare $profile && apparmor_parser --replace $profile" \
        sh -c 'install -m 644 "$1" "$2" && apparmor_parser --replace "$2"' sh "$scratch/twinshare" "$profile"
}

apparmor_profile() {
    cat <<TEXT
# Written by twinshare's install.sh.
abi <abi/4.0>,
include <tunables/global>

profile twinshare "$prefix/bin/twinshare" flags=(unconfined) {
  userns,

  include if exists <local/twinshare>
}
TEXT
}

# --- all of it -----------------------------------------------------------------------------------------------------------

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
target=${CARGO_TARGET_DIR:-$PWD/target}

install_packages
if ! cargo=$(usable_cargo); then
    install_rust
    cargo=$(usable_cargo) || die "the toolchain that was just installed is older than Rust $(rust_wanted)"
fi
say "using $("$(dirname "$cargo")/rustc" --version)"
build
install_binary
check_fuse
install_apparmor_profile
if $demo; then
    say "twinshare demo"
    "$prefix/bin/twinshare" demo
else
    say "try it: twinshare demo"
fi
