#!/usr/bin/env bash
# E1 to E5 and two methods on 4,000 rows of six to eight partitions, some seven hours on two CPU cores (README.md beside it);
# run again, it goes on where it stopped.
#   experiments/paper/overnight.sh AG_NEWS SENTIMENT140 OUT    folders with train.parquet and test.parquet; folder for the runs
set -euo pipefail
[ $# = 3 ] || { sed -n 4p "$0" >&2; exit 2; }
ag_news=$1 sentiment140=$2 out=$3
configs=$(dirname "$0")/../../configs/paper

run() {  # FOLDER CONFIG [key=value ...]
  fedjax-paradox run "$configs/$2.yaml" "${@:3}" --out "$out/$1"
}

rows=(corpus.train_rows=4000 corpus.test_rows=2000 partition.holdout_fraction=0.2
  'protocols=[train_rows, label_filtered, label_matched, holdout]')
news=("corpus.files.train=$ag_news/train.parquet" "corpus.files.test=$ag_news/test.parquet" "${rows[@]}"
  models.textcnn.max_length=32 models.minilm.max_length=32)
tweets=("corpus.files.train=$sentiment140/train.parquet" "corpus.files.test=$sentiment140/test.parquet" "${rows[@]}"
  corpus.label_column=label corpus.classes=null models.textcnn.max_length=24 models.minilm.max_length=24)
textcnn=(rounds=50 evaluate_every=10)
minilm=(rounds=5 evaluate_every=5 models.minilm.local.learning_rate=0.003)

# A partition after the other, so that those that are done can be read; each has rows, clients and a training seed of its own.
eight=(81 82 83 84 85 86 87 88)
by() { echo "grid.partition_seed,seed,corpus.seed=[[$1, $1, $1]]"; }  # SEED

# Both models at alpha 0.1, and FedSA-LoRA.
one='grid.alpha=[0.1]'
for seed in "${eight[@]}"; do
  run "e5-minilm-$seed" e5_fedavgw "${news[@]}" "${minilm[@]}" "$(by "$seed")" model=minilm 'grid.rule=[fedavg, fedsa_lora]'
  run "e1-textcnn-$seed" e1_alpha_grid "${news[@]}" "${textcnn[@]}" "$(by "$seed")" 'grid.model=[textcnn]' "$one"
done
# The other methods.
for seed in "${eight[@]}"; do
  run "logit-minilm-$seed" e5_fedavgw "${news[@]}" "${minilm[@]}" "$(by "$seed")" model=minilm 'grid.rule=[fedavg]' \
    'grid.local.objective=[logit_adjustment]'
  run "logit-textcnn-$seed" e1_alpha_grid "${news[@]}" "${textcnn[@]}" "$(by "$seed")" 'grid.model=[textcnn]' "$one" \
    'grid.local.objective=[logit_adjustment]'
  run "ditto-textcnn-$seed" e1_alpha_grid "${news[@]}" "${textcnn[@]}" "$(by "$seed")" 'grid.model=[textcnn]' "$one" 'grid.rule=[ditto]'
done
# E4.
for seed in "${eight[@]}"; do
  run "e4-minilm-$seed" e4_sentiment140 "${tweets[@]}" "${minilm[@]}" "$(by "$seed")" 'grid.model=[minilm]' 'grid.alpha=[0.1, 1.0]'
  run "e4-textcnn-$seed" e4_sentiment140 "${tweets[@]}" "${textcnn[@]}" "$(by "$seed")" 'grid.model=[textcnn]' 'grid.alpha=[0.1, 1.0]'
done
# Decided on after the 5 rounds of MiniLM had been seen: 10, in copies of the folders, which go on where those ended.
for seed in "${eight[@]}"; do
  [ -e "$out/e4-minilm-10-$seed" ] || cp -r "$out/e4-minilm-$seed" "$out/e4-minilm-10-$seed"
  run "e4-minilm-10-$seed" e4_sentiment140 "${tweets[@]}" "${minilm[@]}" "$(by "$seed")" 'grid.model=[minilm]' "$one" rounds=10
done
# The same of E1, from the start.
for seed in "${eight[@]}"; do
  run "e1-minilm-10-$seed" e1_alpha_grid "${news[@]}" "${minilm[@]}" "$(by "$seed")" 'grid.model=[minilm]' "$one" rounds=10
done
# E3 and E5, each with the FedAvg that it is compared with.
for seed in "${eight[@]:0:6}"; do
  run "e3-textcnn-$seed" e3_fedprox "${news[@]}" "${textcnn[@]}" "$(by "$seed")" "$one" 'grid.local.mu=[0.0, 0.01]'
done
for seed in "${eight[@]}"; do
  run "e5-betas-$seed" e5_fedavgw "${news[@]}" "${minilm[@]}" "$(by "$seed")" model=minilm
done
# The other alphas and E2.
for seed in "${eight[@]:0:6}"; do
  alphas='grid.alpha=[0.5, 1.0, 5.0]'
  run "e1-more-textcnn-$seed" e1_alpha_grid "${news[@]}" "${textcnn[@]}" "$(by "$seed")" 'grid.model=[textcnn]' "$alphas"
  run "e1-more-minilm-$seed" e1_alpha_grid "${news[@]}" "${minilm[@]}" "$(by "$seed")" 'grid.model=[minilm]' "$alphas"
  run "e2-textcnn-$seed" e2_clients "${news[@]}" "${textcnn[@]}" "$(by "$seed")" 'grid.num_clients=[5, 20, 50]'
done
