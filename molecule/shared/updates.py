"""Updates of Debian packages that no mirror has."""

from __future__ import annotations

from typing import Any

# The installed package, with a later version.
PUBLISH = """
set -eu
rm -rf /srv/updates /etc/apt/sources.list.d/updates.list
mkdir -p /srv/updates
cd /srv/updates
apt-get update -q >/dev/null
apt-get download -q {0} >/dev/null
dpkg-deb -R ./*.deb package
rm ./*.deb
sed -i 's/^Version: .*/&+update/' package/DEBIAN/control
dpkg-deb -b package {0}.deb >/dev/null
{{
  cat package/DEBIAN/control
  echo Filename: ./{0}.deb
  echo "Size: $(stat -c %s {0}.deb)"
  echo "SHA256: $(sha256sum <{0}.deb | cut -d' ' -f1)"
}} >Packages
rm -r package
echo 'deb [trusted=yes] file:/srv/updates ./' >/etc/apt/sources.list.d/updates.list
"""


def publish_update(host: Any, package: str) -> None:
    """Have a later version of a Debian package, with the same content, for apt on a host."""
    host.check_output(PUBLISH.format(package))


def updated(host: Any, package: str) -> bool:
    """Return whether a host has the later version of a package."""
    return str(host.check_output("dpkg-query -W -f '${Version}' %s", package)).endswith("+update")
