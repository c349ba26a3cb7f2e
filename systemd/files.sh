# shellcheck shell=sh
# What install.sh and build-deb put into place alike; sourced by both.

PROGRAM=/opt/emitterd

# Make the program: $1 interpreter, $2 the clone, $3 folder for what is to be $PROGRAM.
# Nothing in it remembers where it was made.
put_program() {
    venv=$3/venv
    "$1" -m venv "$venv"
    # Called by this name, which then is the one that its commands are run by.
    "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check --no-compile "$2"
    grep -rlZI "$venv" "$venv/bin" "$venv/pyvenv.cfg" |
        xargs -0 sed -i "s|$venv|$PROGRAM/venv|g"
    install -m 0755 "$2/systemd/setup.sh" "$3/setup"
    install -m 0755 "$2/systemd/check.sh" "$3/check"
    install -m 0644 "$2/systemd/notify-reload.conf" "$3/notify-reload.conf"
}

# Manual pages, completions and what else comes beside the program: the one place that
# says where they lie in the clone and where they go. Prints source and destination of
# those that are there: $1 the clone, $2 /usr or /usr/local.
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
