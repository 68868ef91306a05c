#!/bin/sh
# Run by `meson install`: an edited configuration is never replaced.
# usage: install-config.sh SAMPLE DIRECTORY
set -eu
target=${DESTDIR:-}$2/vgpufs.conf
mkdir -p "${target%/*}"
if [ -e "$target" ]; then
    echo "keeping $target; the sample is $1"
else
    install -m 0644 "$1" "$target"
fi
