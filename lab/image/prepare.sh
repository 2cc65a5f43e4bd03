#!/bin/sh
# Runs in a container of the bare image, with the names of packages: installs them, and enables none of their services.
set -eu

services() { systemctl --root=/ list-unit-files --type=service --state=enabled --no-legend --plain | cut -d' ' -f1 | sort; }

services >/tmp/before
# Nothing starts here. What is not on the host's own disk is not installed: the bare image fetched all that roles need.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
DEBIAN_FRONTEND=noninteractive apt-get -qq --yes install --no-install-recommends "$@" >/dev/null
rm /usr/sbin/policy-rc.d
services | comm -13 /tmp/before - | xargs --no-run-if-empty systemctl --root=/ disable --quiet
rm /tmp/before
: >/etc/machine-id
