#!/usr/bin/env bash
# Runs a training command and starts it again until it succeeds:
#
#     training/cluster/supervise.sh python -m training.train RECIPE --data DIR --out RUN
#
# Each worker has a supervisor. When a worker dies, the others notice and exit with status
# 75; all start again from the last checkpoint. The supervisor gives up, with the command's
# status, after
#
#   - status 2, a mistake that a restart does not fix;
#   - 130 and 143, since SIGINT or SIGTERM asked the command to stop;
#   - SUPERVISE_RESTARTS (default 20) consecutive restarts of less than SUPERVISE_STEADY
#     (default 600) seconds each.
#
# It waits SUPERVISE_PAUSE (default 5) seconds before a restart, and twice as long after
# each short one, up to SUPERVISE_LONGEST_PAUSE (default 300). It forwards SIGTERM and
# SIGINT.
set -u
restarts=0
pause=${SUPERVISE_PAUSE:-5}
child=
stop() { asked=$1; if [ -n "$child" ]; then kill "-$1" "$child" 2>/dev/null; fi; }
asked=
trap 'stop TERM' TERM
trap 'stop INT' INT

while true; do
  begin=$SECONDS
  # Bash ignores SIGINT for a command in the background, unless told otherwise.
  (trap - INT TERM; exec "$@") &
  child=$!
  wait "$child"; status=$?
  # A signal ends `wait` before the command has ended.
  while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
  child=
  case $status in 0 | 2 | 130 | 143) exit "$status" ;; esac
  if [ -n "$asked" ]; then exit "$status"; fi
  if [ $((SECONDS - begin)) -ge "${SUPERVISE_STEADY:-600}" ]; then
    restarts=0
    pause=${SUPERVISE_PAUSE:-5}
  fi
  restarts=$((restarts + 1))
  if [ "$restarts" -gt "${SUPERVISE_RESTARTS:-20}" ]; then
    echo "exit status $status; gave up after $((restarts - 1)) restarts" >&2
    exit "$status"
  fi
  echo "exit status $status; starting again in $pause s" >&2
  sleep "$pause" &
  wait "$!"
  if [ -n "$asked" ]; then exit 143; fi
  pause=$((pause * 2))
  longest=${SUPERVISE_LONGEST_PAUSE:-300}
  if [ "$pause" -gt "$longest" ]; then pause=$longest; fi
done
