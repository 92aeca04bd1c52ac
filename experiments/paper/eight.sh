#!/usr/bin/env bash
# E1 at alpha 0.1 on eight partitions, so that a verdict is possible (README.md beside it); run again, it goes on.
#   experiments/paper/eight.sh AG_NEWS OUT    folder with train.parquet and test.parquet; folder for the runs
set -euo pipefail
[ $# = 2 ] || { sed -n 3p "$0" >&2; exit 2; }
ag_news=$1 out=$2
config=$(dirname "$0")/../../configs/paper/e1_alpha_grid.yaml

# Each partition has rows of the corpus, clients and a training seed of its own; seeds that no earlier run has used.
seeds='grid.partition_seed,seed,corpus.seed=[[51, 51, 51], [52, 52, 52], [53, 53, 53], [54, 54, 54], [55, 55, 55],
  [56, 56, 56], [57, 57, 57], [58, 58, 58]]'
shared=("corpus.files.train=$ag_news/train.parquet" "corpus.files.test=$ag_news/test.parquet"
  corpus.train_rows=2000 corpus.test_rows=2000 partition.holdout_fraction=0.2
  'protocols=[train_rows, label_filtered, label_matched, holdout, global]'
  models.textcnn.max_length=32 models.minilm.max_length=32 "$seeds" 'grid.alpha=[0.1]')

fedjax-paradox run "$config" "${shared[@]}" 'grid.model=[textcnn]' rounds=30 --out "$out/textcnn"
fedjax-paradox run "$config" "${shared[@]}" 'grid.model=[minilm]' rounds=4 models.minilm.local.learning_rate=0.001 \
  --out "$out/minilm"
