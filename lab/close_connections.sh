#!/bin/sh
# Ends the SSH masters whose control sockets are in DIRECTORY, and removes it.
for socket in "$1"/*; do
  [ ! -S "$socket" ] || ssh -q -o ControlPath="$socket" -O exit lab || rm -f "$socket"
done
rm -rf "$1"
