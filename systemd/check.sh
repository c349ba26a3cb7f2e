#!/bin/sh
# Run `emitterd check` as the service: with its user, with its secrets from systemd, and
# in its view of the file system.
set -eu

PROGRAM=/opt/emitterd
CONFIG_DIR=/etc/emitterd

usage() {
    cat <<EOF
usage: $0 [NAME] [--online]

Checks the configuration and the machine as the service emitterd, or emitterd@NAME.
With --online it also checks the server. Exit codes: as for emitterd check
EOF
}

# Print the settings of the unit and its drop-ins that decide on access to files.
settings() {
    # The name is safe in a sed expression: systemd allows no / in it.
    systemctl cat "$1" | sed -n -E "s/%i/$2/g; s/%%/%/g
        /^(User|Group|(Ambient)?Capabilit[a-zA-Z]+|(Load|Set)Credential|UMask)=/p
        /^(Environment(File)?|(State|Logs)Directory(Mode)?)=/p
        /^(ProtectSystem|ProtectHome|PrivateTmp|(ReadWrite|ReadOnly|Bind)Paths)=/p"
}

unit=emitterd.service
name=
online=
for word; do
    case $word in
    -h | --help) usage; exit 0 ;;
    --online) online=$word ;;
    -* | */*) usage >&2; exit 2 ;;
    *) name=$word unit=emitterd@$word.service ;;
    esac
done
if [ "$(id -u)" -ne 0 ]; then
    echo "emitterd: only root can do this: sudo $0" >&2
    exit 1
fi
read=$(settings "$unit" "$name") && [ -n "$read" ] || exit 1
set --
while IFS= read -r line; do
    set -- "$@" --property="$line"
done <<EOF
$read
EOF
exec systemd-run --quiet --collect --wait --pipe "$@" "$PROGRAM/venv/bin/emitterd" check \
    ${online:+"$online"} --config "$CONFIG_DIR/${name:-emitter}.yaml"
