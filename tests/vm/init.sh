#!/bin/bash
# The first process of each machine of the rig: what a machine needs, then the agent.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/shm /dev/pts /run/lock /run/rpcbind /run/rpc_pipefs /mnt/vgpu
mount -t tmpfs shm /dev/shm
mount -t rpc_pipefs rpc /run/rpc_pipefs # nfsdcld remembers the clients through it
ln -sf /proc/self/fd /dev/fd
chmod 1777 /tmp
read -ra words </proc/cmdline
for word in "${words[@]}"; do
    case $word in rig.*=*) export "${word#rig.}" ;; esac # rig.ADDRESSES=…, rig.NAME=…
done
hostname "$NAME"
modprobe -a virtio_net virtio_console
ip link set lo up
index=0
for address in ${ADDRESSES//,/ }; do
    ip link set "eth$index" mtu 9000 up
    ip address add "$address" dev "eth$index"
    index=$((index + 1))
done
for ((tries = 0; tries < 500; tries++)); do
    port=$(grep -lx agent /sys/class/virtio-ports/*/name 2>/dev/null) && break
    sleep 0.02
done
if [ "$INIT" = systemd ]; then # rig.INIT=systemd: a machine with a real service manager
    mkdir -p /run/systemd/system
    cat >/run/systemd/system/rig.service <<END
[Unit]
DefaultDependencies=no
[Service]
Environment=PATH=$PATH PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8
ExecStart=/usr/bin/python3 /payload/agent.py /dev/$(basename "$(dirname "$port")")
END
    exec /lib/systemd/systemd --unit=rig.service
fi
python3 /payload/agent.py "/dev/$(basename "$(dirname "$port")")" &
agent=$!
while kill -0 "$agent" 2>/dev/null; do
    wait -n # and so takes orphans' ends
done
poweroff -f
