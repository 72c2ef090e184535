#!/usr/bin/env bash
# Runs one recipe on a Cloud TPU VM or on every host of a slice.
#
#   launch/tpu_vm.sh --name=mine --zone=us-east5-b --type=v6e-8 --runtime=v2-alpha-tpuv6e -- \
#       --config=configs/dpc.py --workdir=/mnt/runs/dpc
#
# Creates the TPU if there is none of that name, copies this checkout, installs it and runs it on all
# hosts. With several hosts the workdir and the data lie on a file system that all of them see:
# --setup=COMMAND runs on each host first and can mount it. A preempted TPU has to be deleted; after
# that the same command makes a new one and goes on. --spot asks for spot capacity. --dry-run prints
# the commands.
set -euo pipefail

usage() {
  echo "usage: launch/tpu_vm.sh --name=NAME --zone=ZONE --type=TYPE --runtime=VERSION" \
    "[--project=ID] [--setup=COMMAND] [--spot] [--dry-run] -- FLAGS" >&2
  exit 2
}

name='' zone='' type='' runtime='' project='' setup=true spot='' dry=''
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --setup=*) setup=${1#*=} ;;
    --spot) spot=1 ;;
    --dry-run) dry=1 ;;
    *) echo "launch/tpu_vm.sh: unknown option $1" >&2; usage ;;
  esac
  shift
done
[[ -n $name && -n $zone && -n $type && -n $runtime && ${1:-} == -- && $# -gt 1 ]] || usage
shift

run() {
  if [[ -n $dry ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}

where=(--zone="$zone")
[[ -n $project ]] && where+=(--project="$project")
tpu=(gcloud compute tpus tpu-vm)
root=$(cd "$(dirname "$0")/.." && pwd)

if [[ -n $dry ]] || ! "${tpu[@]}" describe "$name" "${where[@]}" >/dev/null 2>&1; then
  run "${tpu[@]}" create "$name" "${where[@]}" --accelerator-type="$type" --version="$runtime" \
    ${spot:+--spot}
fi
archive=$(mktemp -d)/jaxrobust.tar.gz
run git -C "$root" archive --output="$archive" HEAD
run "${tpu[@]}" scp "$archive" "$name:jaxrobust.tar.gz" "${where[@]}" --worker=all
run "${tpu[@]}" ssh "$name" "${where[@]}" --worker=all --command="$setup && \
mkdir -p jaxrobust && tar -xzf jaxrobust.tar.gz -C jaxrobust && cd jaxrobust && \
pip install --quiet '.[tpu,tensorboard]' && \
python3 -m jaxrobust.main --distributed $(printf '%q ' "$@")"
