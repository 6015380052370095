#!/bin/sh
# properties = {properties}
trap 'trap : TERM; kill -TERM 0' TERM
( {exec_job} ) &
job=$!
wait $job
status=$?
while kill -0 $job 2>/dev/null; do
  wait $job
  status=$?
done
exit $status
