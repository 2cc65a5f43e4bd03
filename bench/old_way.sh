#!/bin/sh
# A release as many recipes have it: one host after another, and every worker restarted.
#
#   bench/old_way.sh SSH_CONFIG ARTIFACT VERSION HOST...
#
# It fits our layout (/srv/shop/releases and current), so that both ways release the same onto the same hosts.
set -eu
config=$1 artifact=$2 version=$3
shift 3
for host; do
  echo "$host"
  scp -q -F "$config" "$artifact" "$host:release.tar"
  ssh -F "$config" "$host" sudo -n sh -eu -s "$version" <<'END'
release=/srv/shop/releases/$1
mkdir -p "$release/wheels"
tar -xf release.tar -C "$release/wheels"
rm release.tar
python3 -m venv "$release/venv"
"$release/venv/bin/pip" -q --disable-pip-version-check --no-cache-dir install --no-index --no-deps "$release"/wheels/*.whl
rm -r "$release/wheels"
ln -sfn "releases/$1" /srv/shop/current
supervisorctl restart all
END
done
