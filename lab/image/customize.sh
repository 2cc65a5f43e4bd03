#!/bin/sh
# mmdebstrap calls this with the new root directory, before it makes the archive of it.
set -eu
root=$1

put() { install -D -o root -g root -m "$1" "$LAB_FILES/$2" "$root/$3"; }
put 0440 sudoers            etc/sudoers.d/debian
put 0644 sshd.conf          etc/ssh/sshd_config.d/lab.conf
put 0644 host-keys.conf     etc/systemd/system/ssh.service.d/host-keys.conf
put 0755 lab-trust          usr/local/sbin/lab-trust
put 0644 lab-trust.service  etc/systemd/system/lab-trust.service

chroot "$root" useradd --create-home --shell /bin/bash debian
chroot "$root" systemctl enable --quiet lab-trust.service

# Every host makes keys and an id of its own at its first boot.
rm -f "$root"/etc/ssh/ssh_host_*
: > "$root/etc/machine-id"

# What the roles install, fetched once here instead of once a host. Nothing of it is installed.
chroot "$root" apt-get -qq clean
fetch() {
  chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --download-only "$@"
}
. "$root/etc/os-release"
packages="rabbitmq-server logrotate supervisor nginx redis-server python3-installer acl postgresql nftables curl \
  redis-sentinel podman netavark iptables busybox-static python3-kombu python3-redis"
[ "$VERSION_ID" -lt 13 ] || packages="$packages valkey-server valkey-sentinel"
for package in $packages; do
  fetch install --no-install-recommends "$package"
  fetch install "$package"
done
fetch install --no-install-recommends python3-pip
# Without what they recommend, as the roles install them.
fetch install --no-install-recommends prometheus prometheus-alertmanager prometheus-node-exporter \
  prometheus-blackbox-exporter prometheus-redis-exporter python3-prometheus-client python3-boto3 python3-gdbm nodejs
