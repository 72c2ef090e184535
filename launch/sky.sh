#!/usr/bin/env bash
# Runs one recipe on whatever cloud SkyPilot finds, as a managed job that survives preemption.
#
#   launch/sky.sh --name=dpc --accelerators=H100:1 --bucket=gs://my-runs -- \
#       --config=configs/dpc.py --workdir=/runs/dpc
#
# The bucket is mounted at /runs on every node; a job that is moved to another machine finds its
# workdir there and goes on. --nodes=N starts one process on each of N nodes. --on-demand does without
# spot capacity. --dry-run prints the task.
set -euo pipefail

usage() {
  echo "usage: launch/sky.sh --name=NAME --accelerators=KIND:COUNT --bucket=URL [--nodes=1]" \
    "[--extra=cuda13] [--on-demand] [--dry-run] -- FLAGS" >&2
  exit 2
}

name='' accelerators='' bucket='' nodes=1 extra=cuda13 spot=true dry=''
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --accelerators=*) accelerators=${1#*=} ;;
    --bucket=*) bucket=${1#*=} ;;
    --nodes=*) nodes=${1#*=} ;;
    --extra=*) extra=${1#*=} ;;
    --on-demand) spot=false ;;
    --dry-run) dry=1 ;;
    *) echo "launch/sky.sh: unknown option $1" >&2; usage ;;
  esac
  shift
done
[[ -n $name && -n $accelerators && -n $bucket && ${1:-} == -- && $# -gt 1 ]] || usage
shift

root=$(cd "$(dirname "$0")/.." && pwd)
task() {
  cat <<EOF
name: $name
workdir: $root
num_nodes: $nodes
resources:
  accelerators: $accelerators
  use_spot: $spot
  job_recovery:
    max_restarts_on_errors: 0
    recover_on_exit_codes: [75]
file_mounts:
  /runs:
    source: $bucket
    mode: MOUNT
setup: |
  pip install '.[$extra,tensorboard]'
run: |
  python -m jaxrobust.main $(printf '%q ' "$@")\\
    --coordinator="\$(head -n 1 <<<"\$SKYPILOT_NODE_IPS"):8476" \\
    --num_processes="\$SKYPILOT_NUM_NODES" --process_id="\$SKYPILOT_NODE_RANK"
EOF
}

if [[ -n $dry ]]; then
  task "$@"
else
  file=$(mktemp --suffix=.yaml)
  trap 'rm -f "$file"' EXIT
  task "$@" >"$file"
  sky jobs launch --name "$name" "$file"
fi
