#!/bin/sh
# Makes an SSH key pair without passphrase at PATH, unless another run made it meanwhile.
set -eu
[ -f "$1.pub" ] || ssh-keygen -q -t ed25519 -N '' -C celery-fleet-lab -f "$1"
