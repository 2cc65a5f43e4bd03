#!/bin/sh
# Waits until a host has booted, and prints its SSH host key. One that does not boot says why.
#
#   lab/wait_for_boot.sh CONTAINER [SECONDS]      so long without progress at most: 110 by default
set -u
host=$1
patience=${2:-110}
deadline=$(($(date +%s) + patience))
jobs=

# What systemd still has to do. It changes while a host boots, however slowly.
list_jobs() { timeout 5 podman exec "$host" systemctl list-jobs --no-legend --plain 2>&1; }

fail() {
  echo "$host does not boot: $1"
  echo "The end of its console:"
  podman logs --tail 15 "$host" 2>&1 | tr -d '\r' | sed 's/\x1b\[[0-9;]*m//g; s/^/  /'
  echo "Jobs that systemd still waits for:"
  list_jobs | sed 's/^/  /'
  echo "Units that failed:"
  timeout 5 podman exec "$host" systemctl list-units --failed --no-legend --plain 2>&1 | sed 's/^/  /'
  exit 1
} >&2

while :; do
  case $(podman inspect --format '{{.State.Status}}' "$host" 2>/dev/null) in
    running) ;;
    *) fail "its container is $(podman inspect --format '{{.State.Status}}, exit code {{.State.ExitCode}}' "$host" 2>&1)" ;;
  esac
  # systemd that gives up at its start says so on the console, and stays as it is.
  if podman logs --tail 5 "$host" 2>&1 | grep -q 'Freezing execution'; then fail "systemd gave up"; fi
  found=$(list_jobs)
  if [ "$found" != "$jobs" ]; then
    jobs=$found
    deadline=$(($(date +%s) + patience))
  fi
  left=$((deadline - $(date +%s)))
  [ "$left" -gt 0 ] || fail "for $patience s, nothing has changed; systemd says: ${state:-nothing}"
  state=$(timeout $((left < 10 ? left : 10)) podman exec "$host" systemctl is-system-running --wait 2>&1)
  case $state in
    running | degraded)
      podman exec "$host" cat /etc/ssh/ssh_host_ed25519_key.pub 2>/dev/null && exit
      fail "it has no SSH host key, though it is $state"
      ;;
  esac
  sleep 0.5
done
