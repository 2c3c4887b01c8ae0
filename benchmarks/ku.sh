#!/usr/bin/env bash
# The README's longer search: five backbones under four placements of fusion on KU, each cell tuned on validation with the same
# eight settings, then three seeds. About an hour and a half on two cores; searches in out/ku are kept and gone on with.
#   usage: benchmarks/ku.sh DATA        (the folder above ku/)
set -euo pipefail
data=${1:?the folder above ku/}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p out/ku
for backbone in fedavg fcf fedncf pfedrec fedrap; do
  .venv/bin/fedlab-mm compare --dataset ku --root "$data" --backbone "$backbone" --method none mlp fedvlr fedmr \
    --patience 10 --grid optimizer=adam lr=0.001,0.003,0.01,0.03 --grid optimizer=sgd lr=0.3,1 weight_decay=0,0.001 \
    --seeds 3 --folder out/ku --csv "out/ku/$backbone.csv" | tee "out/ku/$backbone.txt"
done
# The longer search of the leading cell: scale of the features, weight decay and the ID's learning rate, by three seeds.
.venv/bin/fedlab-mm compare --dataset ku --root "$data" --backbone fcf --method fedvlr --operators sum \
  --rounds 120 --patience 15 --grid feature_scale=0.03,0.05,0.1 weight_decay=0.001,0.003 id_lr_scale=30,60 \
  --search-seeds 3 --seeds 3 --folder out/ku/long --csv out/ku/long.csv | tee out/ku/long.txt
