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

# apt reads Debian's lists at each start, so keep only what is installed or was fetched. The host knows no other package,
# not even after `apt-get update`, which takes them for Debian's.
{ dpkg-query -W -f '${Package}\n'; ls /var/cache/apt/archives | sed -n 's/_.*//p'; } >/tmp/known
for list in /var/lib/apt/lists/*_Packages; do
  awk 'NR == FNR { known["Package: " $0]; next } $1 in known' /tmp/known RS= ORS='\n\n' FS='\n' "$list" >/tmp/list
  cat /tmp/list >"$list"
done
rm /tmp/known /tmp/list
apt-cache -q gencaches
: >/etc/machine-id
