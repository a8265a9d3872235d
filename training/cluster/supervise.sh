#!/usr/bin/env bash
# Runs a training command and starts it again until it succeeds:
#
#     training/cluster/supervise.sh python -m training.train RECIPE --data DIR --out RUN
#
# One of these runs for each worker. When a worker dies the others notice and exit with
# status 75; all start again from the last checkpoint. Status 2 is an error that starting
# again does not mend.
until "$@"; do
  status=$?
  if [ "$status" -eq 2 ]; then exit 2; fi
  echo "exit status $status; starting again" >&2
  sleep "${SUPERVISE_PAUSE:-5}"
done
