#!/usr/bin/env bash
# E1 at alpha 0.1 on 16,000 rows of eight partitions, TextCNN 50 rounds and MiniLM 10 (README.md beside it); run again, it goes on.
#   experiments/paper/sixteen.sh AG_NEWS OUT    folder with train.parquet and test.parquet; folder for the runs
set -euo pipefail
[ $# = 2 ] || { sed -n 3p "$0" >&2; exit 2; }
ag_news=$1 out=$2
config=$(dirname "$0")/../../configs/paper/e1_alpha_grid.yaml

shared=("corpus.files.train=$ag_news/train.parquet" "corpus.files.test=$ag_news/test.parquet"
  corpus.train_rows=16000 partition.holdout_fraction=0.2 'protocols=[train_rows, label_filtered, label_matched, holdout]'
  models.textcnn.max_length=32 models.minilm.max_length=32 'grid.alpha=[0.1]')

# A partition after the other, so that those that are done can be read; each has rows, clients and a training seed of its own.
for seed in 71 72 73 74 75 76 77 78; do
  seeds="grid.partition_seed,seed,corpus.seed=[[$seed, $seed, $seed]]"
  fedjax-paradox run "$config" "${shared[@]}" "$seeds" 'grid.model=[textcnn]' rounds=50 evaluate_every=10 \
    --out "$out/textcnn-$seed"
  fedjax-paradox run "$config" "${shared[@]}" "$seeds" 'grid.model=[minilm]' rounds=10 evaluate_every=5 \
    models.minilm.local.learning_rate=0.003 --out "$out/minilm-$seed"
done
