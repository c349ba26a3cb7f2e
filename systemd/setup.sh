#!/bin/sh
# Prepare this machine for /etc/emitterd/*.yaml: users, folders, modes, drop-ins.
# install.sh and the Debian package call this script. Run it again after you change
# spool.directory, another folder or delivery.drain_timeout. You can repeat it.
set -eu
# Not root's own: the service must read what is installed, and nobody else may write it.
umask 022

PROGRAM=/opt/emitterd
CONFIG_DIR=/etc/emitterd
UNITS=/etc/systemd/system
SYSCTL=/etc/sysctl.d/60-emitterd.conf
ACCOUNT=emitterd
PRODUCERS=emitterd-producers

usage() {
    cat <<EOF
usage: $0

Prepares this machine for $CONFIG_DIR/*.yaml: the user $ACCOUNT, the group
$PRODUCERS, the watched folders, the password file, and the settings of the
units. Run it again after you change a folder or delivery.drain_timeout, then
run: systemctl restart $ACCOUNT
EOF
}

warn() { printf 'emitterd: %s\n' "$*" >&2; }

make_users() {
    # systemd-sysusers creates only what does not exist.
    systemd-sysusers - <<EOF
g $PRODUCERS -
u $ACCOUNT - "cQube emission" /var/lib/emitterd
m $ACCOUNT $PRODUCERS
EOF
}

keep_secrets() {
    # The service must read the file. Do not change an owner that somebody has set.
    for file in "$CONFIG_DIR"/*.yaml; do
        [ -f "$file" ] || continue
        [ "$(stat -c %U:%G "$file")" = root:root ] || continue
        chgrp "$ACCOUNT" "$file"
        chmod 0640 "$file"
    done
    if [ ! -e "$CONFIG_DIR/password" ]; then
        # An empty file with the right mode and owner from the start.
        install -m 0600 -o "$ACCOUNT" -g "$ACCOUNT" /dev/null "$CONFIG_DIR/password"
    fi
}

# Print the needs of a configuration, one a line: `drain` and seconds, `folder` and a
# folder to create, `write` and a folder outside /srv that the service writes to.
needs() {
    "$PROGRAM/venv/bin/python3" -I - "$1" <<'EOF'
import math
import sys
from pathlib import Path

from emitterd.config.settings import load_part
from emitterd.errors import ConfigError

try:
    config = load_part(Path(sys.argv[1]), {}, "spool", "delivery", "log")
except ConfigError as error:
    sys.exit(str(error))
spool, log = config.spool, config.log.file
folders = [spool.directory, spool.archive_directory, spool.rejected_directory]
written = folders if any(folders[1:]) or spool.after_delivery != "keep" else []
print("drain", math.ceil(config.delivery.drain_timeout_s))
for folder in filter(None, folders):
    print("folder", folder)
for folder in filter(None, [*written, log and log.parent]):
    if not any(map(folder.is_relative_to, ("/srv", "/var/log/emitterd"))):
        print("write", folder)
EOF
}

# Quote a path for a systemd file.
quoted() {
    printf '%s' "$1" | sed 's/[\\"]/\\&/g; s/%/%%/g'
}

# setgid gives all content to the producers' group. The default ACL replaces the umask of
# the producer, so the service can read and move every file.
make_folder() {
    case $1 in
    /home/* | /root/* | /run/user/*)
        warn "$1: the service cannot see folders below /home; use a folder below /srv" ;;
    esac
    [ ! -e "$1" ] || return 0
    install -d -m 2770 -o "$ACCOUNT" -g "$PRODUCERS" "$1"
    systemd-tmpfiles --create - <<EOF
a+ "$(quoted "$1")" - - - - default:group::rwx,default:other::---
EOF
}

# Write the settings of a unit: $1 the unit, $2 the output of `needs`.
write_drop_in() {
    drop_in=$UNITS/$1.service.d/configured.conf
    drain=$(printf '%s\n' "$2" | sed -n 's/^drain //p')
    write=$(printf '%s\n' "$2" | sed -n 's/^write //p')
    if [ "$drain" -le 30 ] && [ -z "$write" ]; then
        rm -f "$drop_in"
        return
    fi
    install -d "${drop_in%/*}"
    {
        echo "# Written by $PROGRAM/setup from the configuration. Do not edit."
        echo "[Service]"
        # emitterd.service explains the sum.
        [ "$drain" -le 30 ] || echo "TimeoutStopSec=$((drain + 15))"
        [ -z "$write" ] || printf '%s\n' "$write" | while IFS= read -r folder; do
            printf 'ReadWritePaths="-%s"\n' "$(quoted "$folder")"
        done
    } >"$drop_in"
}

# emitterd needs one watch a folder. `emitterd check` warns at half of the limit.
allow_watches() {
    limit=$(cat /proc/sys/fs/inotify/max_user_watches 2>/dev/null || echo 0)
    [ "$limit" -gt 0 ] && [ $(($1 * 2)) -gt "$limit" ] || return 0
    wanted=$(($1 * 4))
    [ "$wanted" -ge 524288 ] || wanted=524288
    printf '# %s folders are watched by emitterd.\nfs.inotify.max_user_watches=%s\n' \
        "$1" "$wanted" >"$SYSCTL"
    sysctl -q -p "$SYSCTL" || warn "cannot raise fs.inotify.max_user_watches to $wanted now"
}

# The drop-in is only for systemd 253 and later.
use_notify_reload() {
    version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    for unit in emitterd emitterd@; do
        if [ "${version:-0}" -ge 253 ]; then
            install -D -m 0644 "$PROGRAM/notify-reload.conf" \
                "$UNITS/$unit.service.d/notify-reload.conf"
        else
            rm -f "$UNITS/$unit.service.d/notify-reload.conf"
        fi
    done
}

configure() {
    watched=0
    for file in "$CONFIG_DIR"/*.yaml; do
        [ -f "$file" ] || continue
        name=${file##*/}
        unit=emitterd@${name%.yaml}
        [ "$name" != emitter.yaml ] || unit=emitterd
        if ! said=$(needs "$file"); then
            warn "$file: nothing was prepared; correct the file and run $PROGRAM/setup again"
            continue
        fi
        folders=$(printf '%s\n' "$said" | sed -n 's/^folder //p')
        while IFS= read -r folder; do
            make_folder "$folder"
        done <<EOF
$folders
EOF
        write_drop_in "$unit" "$said"
        folder=$(printf '%s\n' "$folders" | sed q)
        watched=$((watched + $(find "$folder" -type d 2>/dev/null | wc -l)))
    done
    allow_watches "$watched"
}

case ${1:-} in
'') ;;
-h | --help) usage; exit 0 ;;
*) usage >&2; exit 2 ;;
esac
if [ "$(id -u)" -ne 0 ]; then
    warn "only root can do this: sudo $0"
    exit 1
fi
make_users
keep_secrets
# The user of the service cannot write there, so Python would compile at each start.
"$PROGRAM/venv/bin/python3" -m compileall -q "$PROGRAM/venv/lib"
configure
use_notify_reload
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
