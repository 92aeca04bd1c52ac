#!/usr/bin/env bash
# A run on a TPU VM or a slice of several hosts, from a machine with gcloud. NOT TRIED: no TPU was at hand.
#   experiments/cluster/tpu_vm.sh NAME ZONE BUCKET CONFIG [OVERRIDE ...]
# NAME: a TPU VM that exists (gcloud compute tpus tpu-vm create). BUCKET: mounted on every host, so that all share the
# output folder and a slice that was taken away goes on in another.
set -euo pipefail
[ $# -ge 4 ] || { sed -n 3p "$0" >&2; exit 2; }
name=$1 zone=$2 bucket=$3 config=$4
shift 4
everywhere() { gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$1"; }
tar --exclude-vcs --exclude=.venv -czf /tmp/fedjax_paradox.tar.gz .
gcloud compute tpus tpu-vm scp /tmp/fedjax_paradox.tar.gz "$name": --zone "$zone" --worker=all
everywhere "mkdir -p src out && tar -xzf fedjax_paradox.tar.gz -C src && pip install -q 'jax[tpu]' ./src && \
  (mountpoint -q out || gcsfuse $bucket out)"
everywhere "cd src && ~/.local/bin/fedjax-paradox run $config $(printf '%q ' "$@") --distributed --out ~/out/run"
