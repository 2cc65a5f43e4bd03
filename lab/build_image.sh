#!/usr/bin/env bash
# Builds the podman image of a Debian host with systemd and SSH, unless it is there already.
#
#   lab/build_image.sh debian12|debian13 [PACKAGE …]
#
# Bare, or with packages of Debian's installed and none of their services enabled: as a VM from a prepared image. Prints
# the image's name on the last line; before it, "built" when there was something to do. The name carries a hash of what
# made it and of the week, so a changed recipe makes a new image, and Debian's updates are at most a week behind. Run as
# root.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state="$here/../.lab"

release=${1-}
case "$release" in
  debian12) suite=bookworm ;;
  debian13) suite=trixie ;;
  *) echo "usage: $0 debian12|debian13 [PACKAGE …]" >&2; exit 2 ;;
esac
shift

recipe=$( (date -u +%G-%V; cat "${BASH_SOURCE[0]}" "$here"/image/*) | sha256sum | cut -c1-12)
repository="localhost/fleet-lab-$release"
bare="$repository:$recipe"
image=$bare
[ $# = 0 ] || image="$repository-prepared:$( (echo "$recipe"; printf '%s\n' "$@" | sort) | sha256sum | cut -c1-12)"

build_bare() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # apt's lists and the packages that customize.sh fetches stay: an install on a host needs no network.
  LAB_FILES="$here/image" mmdebstrap --quiet --variant=minbase --skip=cleanup/apt \
    --include=systemd,systemd-sysv,dbus,openssh-server,python3,python3-apt,sudo,ca-certificates,iproute2 \
    --customize-hook="$here/image/customize.sh" "$suite" "$work/rootfs.tar" >&2
  podman import --quiet --change 'CMD ["/sbin/init"]' --change 'STOPSIGNAL SIGRTMIN+3' \
    "$work/rootfs.tar" "$bare" >&2
}

build_prepared() {
  # podman's own limits can be higher than what the machine lets it give.
  nofile=$(ulimit -Hn)
  container=$(podman create --network none --ulimit "nofile=$nofile:$nofile" --ulimit nproc=32768:32768 \
    "$bare" sleep infinity)
  trap 'podman rm --force --time 0 "$container" >/dev/null' EXIT
  podman start "$container" >&2
  podman exec --interactive "$container" sh -s "$@" <"$here/image/prepare.sh" >&2
  podman commit --quiet --change 'CMD ["/sbin/init"]' "$container" "$image" >&2
}

# Scenarios that start side by side must not build the same image twice.
mkdir -p "$state"
exec 9>"$state/image-$release.lock"
flock 9

if ! podman image exists "$image"; then
  podman image exists "$bare" || build_bare
  [ $# = 0 ] || build_prepared "$@"
  # Images of older recipes; one that a container still uses stays.
  podman images --quiet --no-trunc --filter "reference=$repository*" --filter "before=$bare" |
    while read -r old; do podman rmi "$old" >/dev/null 2>&1 || true; done
  echo built
fi
echo "$image"
