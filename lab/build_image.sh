#!/usr/bin/env bash
# Builds the podman image of a bare Debian host with systemd and SSH, unless it is there already.
#
#   lab/build_image.sh debian12|debian13
#
# Prints the image's name on the last line; before it, "built" when there was something to do.
# The name carries a hash of the recipe and the week, so a changed recipe makes a new image, and Debian's
# updates are at most a week behind. Run as root.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state="$here/../.lab"

case "${1-}" in
  debian12) suite=bookworm ;;
  debian13) suite=trixie ;;
  *) echo "usage: $0 debian12|debian13" >&2; exit 2 ;;
esac

recipe=$( (date -u +%G-%V; cat "${BASH_SOURCE[0]}" "$here"/image/*) | sha256sum | cut -c1-12)
repository="localhost/fleet-lab-$1"
image="$repository:$recipe"

# Scenarios that start side by side must not build the same image twice.
mkdir -p "$state"
exec 9>"$state/image-$1.lock"
flock 9

if ! podman image exists "$image"; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # apt's lists and the packages that customize.sh fetches stay: an install on a host needs no network.
  LAB_FILES="$here/image" mmdebstrap --quiet --variant=minbase --skip=cleanup/apt \
    --include=systemd,systemd-sysv,dbus,openssh-server,python3,python3-apt,sudo,ca-certificates,iproute2 \
    --customize-hook="$here/image/customize.sh" "$suite" "$work/rootfs.tar" >&2
  podman import --quiet --change 'CMD ["/sbin/init"]' --change 'STOPSIGNAL SIGRTMIN+3' \
    "$work/rootfs.tar" "$image" >&2
  # Images of older recipes; one that a container still uses stays.
  podman images --quiet --no-trunc --filter "reference=$repository" --filter "before=$image" |
    while read -r old; do podman rmi "$old" >/dev/null 2>&1 || true; done
  echo built
fi
echo "$image"
