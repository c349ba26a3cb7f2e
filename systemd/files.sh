# shellcheck shell=sh
# The common part of install.sh and build-deb; both source this file.

PROGRAM=/opt/emitterd

# Build the program: $1 interpreter, $2 the clone, $3 the folder that becomes $PROGRAM.
# The result does not contain the path of the build folder.
put_program() {
    venv=$3/venv
    "$1" -m venv "$venv"
    # pip writes this interpreter name into the commands.
    # The tested versions of the dependencies, and only the files that were tested.
    install_packages "$venv" --require-hashes --requirement "$2/requirements.lock"
    install_packages "$venv" --no-deps "$2"
    grep -rlZI "$venv" "$venv/bin" "$venv/pyvenv.cfg" |
        xargs -0 sed -i "s|$venv|$PROGRAM/venv|g"
    install -m 0755 "$2/systemd/setup.sh" "$3/setup"
    install -m 0755 "$2/systemd/check.sh" "$3/check"
    install -m 0644 "$2/systemd/notify-reload.conf" "$3/notify-reload.conf"
}

install_packages() {
    python=$1/bin/python3
    shift
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile "$@"
}

# Print source and destination of each manual page, completion and other extra file that
# exists: $1 the clone, $2 /usr or /usr/local.
extras() {
    zsh=$2/share/zsh/site-functions
    [ "$2" = /usr/local ] || zsh=$2/share/zsh/vendor-completions
    for file in "$1"/docs/man/*.[15]; do
        extra "$file" "$2/share/man/man${file##*.}/${file##*/}"
    done
    extra "$1/docs/completions/emitterd.bash" "$2/share/bash-completion/completions/emitterd"
    extra "$1/docs/completions/_emitterd" "$zsh/_emitterd"
    extra "$1/docs/completions/emitterd.fish" "$2/share/fish/vendor_completions.d/emitterd.fish"
    extra "$1/systemd/emitterd.logrotate" /etc/logrotate.d/emitterd
}

extra() {
    [ ! -f "$1" ] || printf '%s\t%s\n' "$1" "$2"
}
