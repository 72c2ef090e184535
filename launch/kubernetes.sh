#!/usr/bin/env bash
# Runs one recipe on Kubernetes as a JobSet, one pod per host.
#
#   launch/kubernetes.sh --name=dpc --image=REGISTRY/jaxrobust --claim=runs --pods=2 \
#       --resource=nvidia.com/gpu=8 -- --config=configs/dpc.py --workdir=/runs/dpc
#
# The cluster has the JobSet controller. The claim is a volume that all pods may write (ReadWriteMany),
# mounted at /runs. A pod that is evicted saves and ends with code 75: then, as after a lost node, all
# pods are started again and go on, at most --restarts times; code 2 is a mistake of the recipe and
# ends the job. On GKE, TPU slices are chosen by --resource=google.com/tpu=4 and
# --selector=cloud.google.com/gke-tpu-accelerator=..., which may be repeated. The image comes from
# launch/kubernetes/Dockerfile. --dry-run prints the manifest.
set -euo pipefail

usage() {
  echo "usage: launch/kubernetes.sh --name=NAME --image=IMAGE --claim=CLAIM [--pods=1]" \
    "[--resource=NAME=COUNT] [--selector=KEY=VALUE]... [--restarts=10] [--dry-run] -- FLAGS" >&2
  exit 2
}

name='' image='' claim='' pods=1 resource='' restarts=10 dry='' selectors=()
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --claim=*) claim=${1#*=} ;;
    --pods=*) pods=${1#*=} ;;
    --resource=*) resource=${1#*=} ;;
    --selector=*) selectors+=("${1#*=}") ;;
    --restarts=*) restarts=${1#*=} ;;
    --dry-run) dry=1 ;;
    *) echo "launch/kubernetes.sh: unknown option $1" >&2; usage ;;
  esac
  shift
done
[[ -n $name && -n $image && -n $claim && ${1:-} == -- && $# -gt 1 ]] || usage
shift

# A string in YAML's single quotes.
quoted() { printf "'%s'" "${1//\'/\'\'}"; }

manifest() {
  cat <<EOF
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(quoted "$name")
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          parallelism: $pods
          completions: $pods
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  operator: In
                  values: [2]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 300
EOF
  if ((${#selectors[@]})); then
    echo "              nodeSelector:"
    for selector in "${selectors[@]}"; do
      echo "                ${selector%%=*}: $(quoted "${selector#*=}")"
    done
  fi
  cat <<EOF
              containers:
                - name: main
                  image: $(quoted "$image")
                  args:
EOF
  for argument in "$@"; do echo "                    - $(quoted "$argument")"; done
  if ((pods > 1)); then
    cat <<EOF
                    - --coordinator=$name-workers-0-0.$name:8476
                    - --num_processes=$pods
                    - --process_id=\$(JOB_COMPLETION_INDEX)
EOF
  fi
  if [[ -n $resource ]]; then
    cat <<EOF
                  resources:
                    limits:
                      ${resource%=*}: $(quoted "${resource##*=}")
EOF
  fi
  cat <<EOF
                  volumeMounts:
                    - name: runs
                      mountPath: /runs
              volumes:
                - name: runs
                  persistentVolumeClaim:
                    claimName: $(quoted "$claim")
EOF
}

if [[ -n $dry ]]; then
  manifest "$@"
else
  manifest "$@" | kubectl apply -f -
fi
