#!/usr/bin/env bash
# Runs one recipe in several processes on this machine, one per accelerator or on its CPU.
#
#   launch/processes.sh --processes=2 -- --config=configs/dpc.py:digits --workdir=runs/two
#
# With --gpus each process sees the GPU of its own number; otherwise all see the same devices, which
# is meant for CPUs. SIGTERM and Ctrl-C reach all of them, which save at the same epoch. When one
# process fails the others stop, and the same command resumes. --dry-run prints the commands.
set -euo pipefail

usage() {
  echo "usage: launch/processes.sh --processes=N [--port=PORT] [--gpus] [--dry-run] -- FLAGS" >&2
  exit 2
}

processes='' port=8476 gpus='' dry=''
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --gpus) gpus=1 ;;
    --dry-run) dry=1 ;;
    *) echo "launch/processes.sh: unknown option $1" >&2; usage ;;
  esac
  shift
done
[[ $processes =~ ^[1-9][0-9]*$ && ${1:-} == -- && $# -gt 1 ]] || usage
shift

pids=()
forward() { kill "-$1" "${pids[@]}" 2>/dev/null || true; }
trap 'forward TERM' TERM
trap : INT  # the terminal sends it to all of them itself

for ((i = 0; i < processes; i++)); do
  command=(env)
  [[ -n $gpus ]] && command+=("CUDA_VISIBLE_DEVICES=$i")
  command+=(python -m jaxrobust.main "$@" --coordinator="localhost:$port"
    --num_processes="$processes" --process_id="$i")
  if [[ -n $dry ]]; then
    printf '%q ' "${command[@]}"; echo
  else
    "${command[@]}" &
    pids+=($!)
  fi
done

code=0 told=''
left=(${pids[@]+"${!pids[@]}"})
while ((${#left[@]})); do
  sleep 0.2
  still=()
  for i in "${left[@]}"; do
    if kill -0 "${pids[i]}" 2>/dev/null; then
      still+=("$i")
      continue
    fi
    one=0
    wait "${pids[i]}" || one=$?
    if [[ $one != 0 ]]; then
      # With these codes it has told why itself; a killed one cannot.
      if [[ $one != 2 && $one != 75 && $one != 130 && -z $told ]]; then
        told=1
        echo "launch/processes.sh: process $i ended with code $one, and the others stop;" \
          "rerun the same command to resume." >&2
      fi
      if [[ $code == 0 ]]; then
        code=$one
        sleep 1  # in which the others mostly notice, and say where they are
      fi
      forward TERM
    fi
  done
  left=(${still[@]+"${still[@]}"})
done
exit "$code"
