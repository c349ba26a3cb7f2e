#!/bin/sh
# Install emitterd as a service from a clone of its repository, or upgrade it.
set -eu
# Not root's own: the service must read what is installed, and nobody else may write it.
umask 022

CONFIG_DIR=/etc/emitterd
UNITS=/etc/systemd/system
COMMAND=/usr/local/bin/emitterd
HERE=$(cd "$(dirname "$0")" && pwd)
SOURCE=${HERE%/*}

# shellcheck source=systemd/files.sh
. "$HERE/files.sh"

usage() {
    cat <<EOF
usage: $0 [--uninstall | --help]

Installs emitterd from this clone: the program into $PROGRAM, the configuration
into $CONFIG_DIR, the units into $UNITS. Run it again to upgrade
the program. It keeps the configuration and the journal.

  --uninstall   remove the program and the units; keep configuration, journal, log,
                users and the watched folder
  --help        show this text

PYTHON names the interpreter (default: python3). It must be Python 3.11 or later with
the module venv (Debian: apt-get install python3-venv).
EOF
}

fail() {
    printf 'emitterd: %s\n' "$*" >&2
    exit 1
}

look() {
    [ "$(id -u)" -eq 0 ] || fail "only root can do this: sudo $0"
    # The package and this script would overwrite each other's files.
    ! dpkg-query -W -f '${db:Status-Status}' emitterd 2>/dev/null | grep -qx installed ||
        fail "the Debian package is installed: upgrade it, or run: apt-get remove emitterd"
}

look_further() {
    [ -f "$SOURCE/pyproject.toml" ] || fail "$SOURCE is not a clone of emitterd"
    command -v systemctl >/dev/null || fail "this machine has no systemd"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$PYTHON is not Python 3.11 or later: set PYTHON to another interpreter"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$PYTHON has no module venv: apt-get install python3-venv"
}

replace_program() {
    # Build it in a new folder: no file of an earlier version stays, and the old program
    # works until the new one is complete.
    rm -rf "$PROGRAM.new" "$PROGRAM.old"
    install -d "$PROGRAM.new"
    put_program "$PYTHON" "$SOURCE" "$PROGRAM.new"
    [ ! -e "$PROGRAM" ] || mv "$PROGRAM" "$PROGRAM.old"
    mv "$PROGRAM.new" "$PROGRAM"
    rm -rf "$PROGRAM.old"
    install -d "${COMMAND%/*}"
    ln -sf "$PROGRAM/venv/bin/emitterd" "$COMMAND"
    extras "$SOURCE" /usr/local | while IFS='	' read -r from to; do
        install -D -m 0644 "$from" "$to"
    done
}

put_configuration() {
    install -d -m 0755 "$CONFIG_DIR"
    [ -e "$CONFIG_DIR/emitter.yaml" ] ||
        install -m 0640 "$SOURCE/emitterd/config/minimal.yaml" "$CONFIG_DIR/emitter.yaml"
}

put_units() {
    first=
    [ -e "$UNITS/emitterd.service" ] || first=yes
    install -m 0644 "$HERE/emitterd.service" "$HERE/emitterd@.service" "$UNITS"
    # Only at the first installation: an administrator may have disabled it since.
    [ -z "$first" ] || systemctl --quiet enable emitterd.service
}

start() {
    [ -d /run/systemd/system ] || return 0
    systemctl try-restart emitterd.service 'emitterd@*.service'
    systemctl --quiet is-active emitterd.service || cat <<EOF
Installed. Now:
  1. set emission.url, emission.username and spool.directory in $CONFIG_DIR/emitter.yaml
  2. put the password into $CONFIG_DIR/password
  3. $PROGRAM/setup                                (if you changed spool.directory)
  4. $PROGRAM/check --online
  5. systemctl start emitterd
Add each user who drops files to a group: usermod -aG emitterd-producers USER
EOF
}

uninstall() {
    if [ -d /run/systemd/system ]; then
        systemctl --quiet stop emitterd.service 'emitterd@*.service' 2>/dev/null || true
    fi
    systemctl --quiet disable emitterd.service 2>/dev/null || true
    for unit in "$UNITS"/multi-user.target.wants/emitterd@*.service; do
        [ -L "$unit" ] && rm -f "$unit"
    done
    rm -f "$UNITS/emitterd.service" "$UNITS/emitterd@.service"
    for folder in "$UNITS"/emitterd.service.d "$UNITS"/emitterd@*.service.d; do
        rm -f "$folder/configured.conf" "$folder/notify-reload.conf"
        rmdir "$folder" 2>/dev/null || true
    done
    rm -f /etc/sysctl.d/60-emitterd.conf "$COMMAND"
    extras "$SOURCE" /usr/local | while IFS='	' read -r _ to; do
        rm -f "$to"
    done
    rm -rf "$PROGRAM"
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    echo "emitterd is removed. These are kept: $CONFIG_DIR, /var/lib/emitterd,"
    echo "/var/log/emitterd, and the watched folder with its files."
}

PYTHON=${PYTHON:-python3}
case ${1:-} in
'')
    look
    look_further
    replace_program
    put_configuration
    put_units
    "$PROGRAM/setup"
    start
    ;;
--uninstall)
    look
    uninstall
    ;;
-h | --help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
