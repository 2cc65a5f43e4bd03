#!/bin/sh
# Makes the checkout importable as the collection fleet.celery, so that every name is an FQCN in it too.
set -eu
cd "$(dirname "$0")/.."
mkdir -p .ansible/collections/ansible_collections/fleet
ln -sfn ../../../.. .ansible/collections/ansible_collections/fleet/celery
